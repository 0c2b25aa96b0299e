/* Integer code as compilers make it for 64-bit mode: wide arithmetic, sorting, hashing, recursion, tables of functions, bits.
 * As a process it writes its results to standard output; as a guest it leaves them in memory and halts. */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;
typedef unsigned __int128 u128;
typedef long i64;

static u64 state = 0x9e3779b97f4a7c15;

static u64 next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static u64 *out;
static u8 text[4096];
static i64 numbers[2048];
static u32 table[256];

static void put(u64 v)
{
    *out++ = v;
}

/* ---- sorting ---------------------------------------------------------- */
static void sort(i64 *first, i64 *last)
{
    while (last - first > 1) {
        i64 pivot = first[(last - first) / 2], *a = first, *b = last - 1;
        for (;;) {
            while (*a < pivot)
                a++;
            while (*b > pivot)
                b--;
            if (a >= b)
                break;
            i64 t = *a;
            *a++ = *b;
            *b-- = t;
        }
        sort(first, a);
        first = a == first ? a + 1 : a;
    }
}

/* ---- hashes ------------------------------------------------------------ */
static u32 crc(const u8 *p, u64 n)
{
    u32 c = ~0u;
    while (n--)
        c = table[(c ^ *p++) & 255] ^ c >> 8;
    return ~c;
}

static u64 fnv(const u8 *p, u64 n)
{
    u64 h = 0xcbf29ce484222325;
    for (u64 i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3;
    return h;
}

/* ---- wide numbers --------------------------------------------------------- */
static u64 power(u64 b, u64 e, u64 m)
{
    u64 r = 1;
    for (b %= m; e; e >>= 1, b = (u128)b * b % m)
        if (e & 1)
            r = (u128)r * b % m;
    return r;
}

static i64 signed_mix(i64 a, i64 b)
{
    i64 q = b ? a / b : 0, r = b ? a % b : a;
    return (q ^ r) + (i64)((__int128)a * b >> 64) - (a >> 5) + (signed char)b + (short)a - (int)(a * 3);
}

/* __int128's division is a library's: two digits of 64 bits are enough here. */
u128 __umodti3(u128 a, u128 m)
{
    u64 high = (u64)(a >> 64) % (u64)m, low = (u64)a, q;
    __asm__("divq %4" : "=a"(q), "=d"(high) : "0"(low), "1"(high), "r"((u64)m));
    return high;
}

/* ---- bits ------------------------------------------------------------------ */
static u64 ones(u64 v)
{
#ifdef __POPCNT__
    return __builtin_popcountl(v);
#else
    u64 n = 0;
    for (; v; v &= v - 1)
        n++;
    return n;
#endif
}

static u64 bits(u64 v)
{
    u64 r = ones(v) + 64 * (u64)__builtin_ctzl(v | 1ul << 63) + 4096 * (u64)__builtin_clzl(v | 1);
    r ^= __builtin_bswap64(v) + __builtin_bswap32((u32)v);
    r += (v & -v) ^ (v & (v - 1)) ^ (v ^ (v - 1));
    r += (~v & state) + (v << (state & 63)) + (v >> (v & 63)) + (u64)((i64)v >> (v >> 58));
    r += v << 13 | v >> 51;
    return r;
}

/* ---- calls ------------------------------------------------------------------ */
static u64 ackermann(u64 m, u64 n)
{
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static u64 op_add(u64 a, u64 b) { return a + b; }
static u64 op_xor(u64 a, u64 b) { return a ^ b; }
static u64 op_mul(u64 a, u64 b) { return a * b; }
static u64 op_rot(u64 a, u64 b) { return a << (b & 63) | a >> (-b & 63); }
static u64 (*const operations[])(u64, u64) = {op_add, op_xor, op_mul, op_rot};

static u64 interpret(const u8 *p, u64 n)
{
    u64 a = 1, b = 2;
    for (u64 i = 0; i < n; i++) {
        switch (p[i] % 11) {
        case 0: a += b; break;
        case 1: b ^= a >> 3; break;
        case 2: a = operations[b & 3](a, b); break;
        case 3: b = (u32)a; break;
        case 4: a -= p[i]; break;
        case 5: b = a < b ? a : b; break;
        case 6: a = (i64)(int)a; break;
        case 7: b = (u8)a * (b | 1); break;
        case 8: a = a > b; break;
        case 9: b += (unsigned short)a; break;
        default: a = ~a; break;
        }
    }
    return a ^ b;
}

static void run(void)
{
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
        table[i] = c;
    }
    for (u64 i = 0; i < sizeof text; i++)
        text[i] = next() >> 24;
    for (int i = 0; i < 2048; i++)
        numbers[i] = next() >> (i & 31);
    sort(numbers, numbers + 2048);
    for (int i = 0; i < 2048; i += 16)
        put(numbers[i]);
    put(crc(text, sizeof text));
    put(fnv(text, sizeof text));
    for (int i = 0; i < 40; i++)
        put(power(next(), next(), next() | 1));
    for (int i = 0; i < 200; i++)
        put(signed_mix(next() >> (i & 63), (i64)next() >> (i & 31)));
    for (int i = 0; i < 200; i++)
        put(bits(next()));
    put(ackermann(2, 40));
    put(interpret(text, sizeof text));
    __builtin_memcpy(text, numbers, sizeof text / 2);
    __builtin_memset(text + 100, 7, 999);
    put(fnv(text, sizeof text));
}

void *memcpy(void *to, const void *from, u64 n)
{
    void *d = to;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int value, u64 n)
{
    void *d = to;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(value) : "memory");
    return to;
}

#define BYTES 0x2000
#ifdef PROCESS
static u64 results[BYTES / 8];

void _start(void)
{
    out = results;
    run();
    u64 n = (u8 *)out - (u8 *)results;
    __asm__ volatile("syscall" : : "a"(1), "D"(1), "S"(results), "d"(n) : "rcx", "r11", "memory");
    __asm__ volatile("syscall" : : "a"(60), "D"(0));
}
#else
void _start(void)
{
    out = (u64 *)0x40000;
    run();
    __asm__ volatile("hlt" : : "a"((u8 *)out - (u8 *)0x40000));
}
#endif
