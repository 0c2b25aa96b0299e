/* Floating point and SIMD as a compiler makes them: run in a guest and, built for the host, natively.  The results must
 * be the same, bit for bit.  `rounds` is how much of it is done. */
#ifdef GUEST
#define _MM_MALLOC_H_INCLUDED /* gcc's header includes that one, which wants a C library: there need not be a 32-bit one */
#endif
#include <emmintrin.h>

typedef unsigned int u32;

enum { WIDTH = 16, WORDS = 32 };

struct results {
    u32 rows[WIDTH];
    double doubles[WORDS];
    float floats[WORDS];
    u32 words[WORDS];
    unsigned char bytes[WORDS];
};

/* One row of the Mandelbrot set, one point after the other. */
static void row(u32 *out, double y, u32 limit)
{
    for (int x = 0; x < WIDTH; x++) {
        double cr = x * (3.0 / WIDTH) - 2.25, zr = 0, zi = 0;
        u32 n = 0;
        while (n < limit && zr * zr + zi * zi < 4.0) {
            double t = zr * zr - zi * zi + cr;
            zi = 2 * zr * zi + y;
            zr = t;
            n++;
        }
        out[x] += n;
    }
}

/* Two points at a time. */
static void pair_row(u32 *out, double y, u32 limit)
{
    const __m128d four = _mm_set1_pd(4.0), ci = _mm_set1_pd(y);
    for (int x = 0; x < WIDTH; x += 2) {
        __m128d cr = _mm_set_pd((x + 1) * (3.0 / WIDTH) - 2.25, x * (3.0 / WIDTH) - 2.25);
        __m128d zr = _mm_setzero_pd(), zi = _mm_setzero_pd();
        __m128i n = _mm_setzero_si128();
        for (u32 k = 0; k < limit; k++) {
            __m128d rr = _mm_mul_pd(zr, zr), ii = _mm_mul_pd(zi, zi);
            __m128d inside = _mm_cmplt_pd(_mm_add_pd(rr, ii), four);
            if (!_mm_movemask_pd(inside))
                break;
            n = _mm_sub_epi64(n, _mm_castpd_si128(inside));
            zi = _mm_add_pd(_mm_mul_pd(_mm_add_pd(zr, zr), zi), ci);
            zr = _mm_add_pd(_mm_sub_pd(rr, ii), cr);
        }
        out[x] += _mm_cvtsi128_si32(n);
        out[x + 1] += _mm_cvtsi128_si32(_mm_unpackhi_epi64(n, n));
    }
}

static double root(double v)
{
    __m128d r = _mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(v));
    return _mm_cvtsd_f64(r);
}

static void numbers(struct results *r, u32 rounds)
{
    for (int k = 0; k < WORDS; k++) {
        double v = r->doubles[k] + k * 1.25;
        for (u32 n = 0; n < rounds; n++) {
            v = root(v * v + n) / (k + 1.5) + (int)(v * 3) * 0.125;
            r->floats[k] += (float)v * 1e-3f;
        }
        r->doubles[k] = v;
        r->words[k] += (u32)(long long)(v * 1000) ^ (v < r->floats[k]);
    }
}

static void bits(struct results *r, u32 rounds)
{
    __m128i *w = (__m128i *)r->words;
    for (u32 n = 0; n < rounds; n++)
        for (int k = 0; k < WORDS / 4; k++) {
            __m128i a = _mm_loadu_si128(w + k), b = _mm_loadu_si128((__m128i *)((char *)w + 4 * k));
            a = _mm_add_epi32(_mm_shuffle_epi32(a, 0x39), _mm_slli_epi32(b, 3));
            a = _mm_xor_si128(a, _mm_mul_epu32(a, b));
            a = _mm_unpacklo_epi8(_mm_packus_epi16(a, b), _mm_sad_epu8(a, b));
            _mm_storeu_si128(w + k, _mm_sub_epi16(a, _mm_cmpgt_epi8(a, b)));
            r->bytes[(n + k) % WORDS] += _mm_movemask_epi8(a);
        }
}

void run(struct results *r, u32 rounds)
{
    for (u32 k = 0; k < rounds; k++) {
        row(r->rows, k * 0.01, 16 + rounds);
        pair_row(r->rows, k * 0.02, 16 + rounds);
    }
    numbers(r, rounds);
    bits(r, rounds);
}

#ifdef GUEST
__attribute__((section(".start"), noreturn)) void start(void)
{
    __asm__ volatile("fninit");
    run((struct results *)0x40000, *(volatile u32 *)0x3f000);
    for (;;)
        __asm__ volatile("hlt");
}
#endif
