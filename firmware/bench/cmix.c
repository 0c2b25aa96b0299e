/* cmix: what C programs do: records, a switch interpreter, strings, hashing. */
#include "bench.h"

#define N_RECORDS 24
#define N_BUCKETS 32
#define NAME_SIZE 16

struct record {
    struct record *next;
    u32 key;
    u16 uses;
    u8 kind;
    s32 balance;
    char name[NAME_SIZE];
};

static struct record records[N_RECORDS];
static struct record *buckets[N_BUCKETS];

static NOINLINE u32 length(const char *text)
{
    const char *end = text;

    while (*end)
        end++;
    return (u32)(end - text);
}

static NOINLINE s32 compare(const char *a, const char *b)
{
    while (*a && *a == *b) {
        a++;
        b++;
    }
    return (s32)(u8)*a - (s32)(u8)*b;
}

static NOINLINE void copy(char *to, const char *from)
{
    while ((*to++ = *from++))
        ;
}

static NOINLINE void reverse(char *text)
{
    char *end = text + length(text);

    while (text < end) {
        char c = *text;
        *text++ = *--end;
        *end = c;
    }
}

static NOINLINE u32 hash(const char *text)
{
    u32 value = 2166136261u;      /* FNV-1a, 32 bits */

    for (; *text; text++)
        value = (value ^ (u8)*text) * 16777619u;
    return value;
}

static NOINLINE void name_of(char *text, u32 number)
{
    copy(text, "rec");
    text += 3;
    do {
        *text++ = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    *text = 0;
}

static NOINLINE struct record *find(const char *name)
{
    u32 key = hash(name);
    struct record *r;

    for (r = buckets[key % N_BUCKETS]; r; r = r->next)
        if (r->key == key && compare(r->name, name) == 0)
            return r;
    return 0;
}

static NOINLINE void insert(u32 index)
{
    struct record *r = &records[index];

    name_of(r->name, index * 37);
    if (index & 1)
        reverse(r->name);
    r->key = hash(r->name);
    r->uses = 0;
    r->kind = (u8)(index % 7);
    r->balance = (s32)index * 100 - 700;
    r->next = buckets[r->key % N_BUCKETS];
    buckets[r->key % N_BUCKETS] = r;
}

static NOINLINE s32 transact(struct record *r, s32 amount)
{
    r->uses++;
    switch (r->kind) {
    case 0:
        r->balance += amount;
        break;
    case 1:
        r->balance -= amount;
        break;
    case 2:
        r->balance ^= amount << 3;
        break;
    case 3:
        if (r->balance < amount)
            r->balance = -r->balance;
        break;
    case 4:
        r->balance += (s32)r->uses * 3;
        break;
    case 5:
        r->balance = r->balance * 5 - amount;
        break;
    default:
        r->balance >>= 1;
        break;
    }
    return r->balance;
}

u32 bench(u32 n)
{
    u32 sum = 0;
    char name[NAME_SIZE];

    for (; n; n--) {
        for (u32 i = 0; i < N_BUCKETS; i++)
            buckets[i] = 0;
        for (u32 i = 0; i < N_RECORDS; i++)
            insert(i);
        for (u32 i = 0; i < 2 * N_RECORDS; i++) {
            struct record *r;

            name_of(name, (i % (N_RECORDS + 4)) * 37);
            if (i & 1)
                reverse(name);
            r = find(name);
            sum = rol(sum, 1) + (r ? (u32)transact(r, (s32)i) : i);
        }
    }
    return sum;
}
