/* calls: calls, returns, function pointers and jumps through a table. */
#include "bench.h"

typedef u32 (*operation)(u32, u32);

static NOINLINE u32 op_add(u32 a, u32 b) { return a + b; }
static NOINLINE u32 op_sub(u32 a, u32 b) { return a - b * 3; }
static NOINLINE u32 op_xor(u32 a, u32 b) { return a ^ rol(b, 7); }
static NOINLINE u32 op_mix(u32 a, u32 b) { return op_add(op_xor(a, b), 0x9E3779B9); }

static operation volatile operations[8] = {
    op_add, op_xor, op_mix, op_sub, op_xor, op_add, op_sub, op_mix,
};

static NOINLINE u32 fibonacci(u32 n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

/* Threaded code: every step jumps through a table of label addresses. */
static NOINLINE u32 threaded(const u8 *program, u32 value)
{
    static const void *const labels[] = { &&add, &&rotate, &&flip, &&end };

    goto *labels[*program++];
add:
    value += 0x1001;
    goto *labels[*program++];
rotate:
    value = rol(value, 3);
    goto *labels[*program++];
flip:
    value = ~value;
    goto *labels[*program++];
end:
    return value;
}

static const u8 program[] = { 0, 1, 2, 0, 0, 1, 1, 2, 1, 0, 2, 2, 0, 1, 0, 3 };

u32 bench(u32 n)
{
    u32 sum = 1;

    for (; n; n--) {
        for (u32 i = 0; i < 16; i++)
            sum = operations[i & 7](sum, i);
        sum += fibonacci(7);
        sum = threaded(program, sum);
    }
    return sum;
}
