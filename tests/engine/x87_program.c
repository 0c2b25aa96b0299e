/* A program of floating-point work, compiled for the x87: a bare guest and a process of the host run the same code.
 *
 * `work` fills a buffer with results; `_start` of the process writes the buffer to standard output (Linux, int 80h).
 */
#define N 24

typedef unsigned char u8;

static double matrix[N][N + 1];
static unsigned seed = 12345;

static double next(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (int)seed / 65536.0 / 17.0;
}

static u8 *put(u8 *to, const void *from, int n)
{
    for (int k = 0; k < n; k++)
        to[k] = ((const u8 *)from)[k];
    return to + n;
}

static u8 *solve(u8 *to)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= N; j++)
            matrix[i][j] = next();
    for (int i = 0; i < N; i++) {
        int pivot = i;
        for (int k = i + 1; k < N; k++)
            if (__builtin_fabs(matrix[k][i]) > __builtin_fabs(matrix[pivot][i]))
                pivot = k;
        for (int j = 0; j <= N; j++) {
            double t = matrix[i][j];
            matrix[i][j] = matrix[pivot][j];
            matrix[pivot][j] = t;
        }
        for (int k = 0; k < N; k++)
            if (k != i) {
                double f = matrix[k][i] / matrix[i][i];
                for (int j = i; j <= N; j++)
                    matrix[k][j] -= f * matrix[i][j];
            }
    }
    for (int i = 0; i < N; i++) {
        double x = matrix[i][N] / matrix[i][i];
        to = put(to, &x, sizeof x);
    }
    return to;
}

static u8 *functions(u8 *to)
{
    long double sum = 0;

    for (int k = 1; k < 200; k++) {
        long double x = k * 0.37L;
        long double y = __builtin_sinl(x) + __builtin_cosl(x / 3) * __builtin_atan2l(x, 2);
        y += __builtin_sqrtl(x) - __builtin_logl(x) + __builtin_expl(-x / 50);
        sum += y * (k & 1 ? 1 : -1);
        to = put(to, &y, 10);
    }
    return put(to, &sum, 10);
}

static u8 *conversions(u8 *to)
{
    for (int k = 0; k < 100; k++) {
        double x = next() * 1000;
        float f = (float)x;
        int i = (int)x;
        long long l = (long long)(x * 1e9);
        short s = (short)(x / 64);
        float third = f / 3;
        to = put(to, &f, 4);
        to = put(to, &i, 4);
        to = put(to, &l, 8);
        to = put(to, &s, 2);
        to = put(to, &third, 4);
        x = i * 0.1 + l * 1e-20 + s;
        to = put(to, &x, 8);
    }
    return to;
}

static u8 *extremes(u8 *to)
{
    volatile double tiny = 1e-300, huge = 1e300;
    volatile float small = 1e-30f;

    for (int k = 0; k < 20; k++) {
        double a = tiny / (huge * k), b = huge * huge * k, c = tiny - tiny * k;
        float d = small * small * k;
        unsigned short status;
        __asm__ volatile("fnstsw %0\n\tfnclex" : "=am"(status));
        to = put(to, &a, 8);
        to = put(to, &b, 8);
        to = put(to, &c, 8);
        to = put(to, &d, 4);
        to = put(to, &status, 2);
    }
    return to;
}

int work(u8 *buffer)
{
    __asm__ volatile("fninit");
    return extremes(conversions(functions(solve(buffer)))) - buffer;
}

#ifdef PROCESS
static u8 output[1 << 16];

void _start(void)
{
    int n = work(output), result;

    __asm__ volatile("int $0x80" : "=a"(result) : "a"(4), "b"(1), "c"(output), "d"(n) : "memory");
    __asm__ volatile("int $0x80" : : "a"(1), "b"(result != n));
    for (;;)
        ;
}
#else
void _start(void)
{
    __asm__ volatile("hlt" : : "a"(work((u8 *)0x40000)));
}
#endif
