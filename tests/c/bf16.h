/* Numbers of bfloat16 of many kinds, and a step of their products by the definition. */
#ifndef BF16_H
#define BF16_H

#include "inputs.h"

#include <math.h>

enum { WORDS = 16 };

/* ---- numbers ------------------------------------------------------------------------------- */

static uint32_t bits_of(float a)
{
    uint32_t r;
    memcpy(&r, &a, sizeof r);
    return r;
}

static float number(uint32_t pattern)
{
    float r;
    memcpy(&r, &pattern, sizeof r);
    return r;
}

static float widened(uint32_t half) { return number(half << 16); }
static uint32_t below(uint32_t count) { return (uint32_t)(draw() % count); }

enum kind { COMMON, BORDER, EDGE, CANCELLING, ZEROS, LARGE, ANYTHING, KINDS };

/* A number of bfloat16: sign, exponent, 7 bits. Products of BORDER lie around 2^-126; those of EDGE are
 * that, or around a 2^-25th of it: what rounding to 24 bits just keeps or takes away. */
static uint16_t half(enum kind kind)
{
    static const uint16_t odd_ones[] = { 0x0000, 0x0001, 0x007f, 0x0080, 0x3f80, 0x0000 };
    uint32_t sign = below(2) << 15, digits = below(128);

    switch (kind) {
    case COMMON: return (uint16_t)(sign | (117 + below(12)) << 7 | digits);
    case BORDER: return (uint16_t)(sign | (127 - 67 + below(9)) << 7 | digits);
    case EDGE: return (uint16_t)(sign | (127 - 63 - (below(2) ? 12 + below(2) : 0)) << 7
                                 | (below(8) ? 0 : digits));
    case CANCELLING: return (uint16_t)(sign | (127 - 63) << 7 | (below(4) << 5));
    case ZEROS: return (uint16_t)(sign | odd_ones[below(6)]);
    case LARGE: return (uint16_t)(sign | (below(3) ? 0x7f7fu : 0x3f80u + digits));
    default: return (uint16_t)draw();
    }
}

/* One of the sums that there are already. */
static float sum_so_far(enum kind kind)
{
    uint32_t pattern = (uint32_t)draw();

    switch (kind) {
    case BORDER:
    case EDGE:
    case CANCELLING: /* from 2^-149 to 2^-122 */
        return number((pattern & 0x80000000u) | pattern % 0x2800000u);
    case ZEROS: return number(pattern & 0x80000000u);
    case ANYTHING: return number(pattern);
    default: return (float)unit();
    }
}

/* ---- the definition ------------------------------------------------------------------------ */

static float without_subnormals(float a)
{
    return bits_of(a) & 0x7f800000 ? a : number(bits_of(a) & 0x80000000u);
}

/* Tiny is what rounds to less than 2^-126 where exponents have no end: 2^64 higher. */
static float defined_fma(float a, float b, float c)
{
    a = without_subnormals(a);
    b = without_subnormals(b);
    c = without_subnormals(c);
    float r = fmaf(a, b, c);
    if (!(fabsf(r) <= 0x1p-126f) || fabsf(c) > 0x1p60f)
        return r;
    float high = fabsf(a) < fabsf(b) ? fmaf(a * 0x1p64f, b, c * 0x1p64f)
                                     : fmaf(a, b * 0x1p64f, c * 0x1p64f);
    return fabsf(high) < 0x1p-62f ? copysignf(0, high) : r;
}

static float defined_sum(float a, float b)
{
    return without_subnormals(without_subnormals(a) + without_subnormals(b));
}

/* sum + a step of 32 features, of x one after the other, of words 16 classes apart. */
static float defined_step(float sum, const uint16_t *x, const uint32_t *w)
{
    float chain[2] = { 0, 0 };

    for (int p = 0; p < LL_STEP_K; p++)
        chain[p % 2] = defined_fma(widened(x[p]), widened(w[p / 2 * WORDS] >> p % 2 * 16 & 0xffff),
                                   chain[p % 2]);
    return defined_sum(sum, defined_sum(chain[0], chain[1]));
}

#endif
