/* The vocabulary in AVX2 and FMA: two ymm registers are one vector of virtual lanes. */
#ifndef LL_SIMD_AVX2_H
#define LL_SIMD_AVX2_H

#if !defined(__AVX2__) || (!defined(_MSC_VER) && !defined(__FMA__))
#error "compile this file with AVX2 and FMA enabled"
#endif
#include <immintrin.h>

#if LL_REAL == 32

#define LL_LANES 16
typedef __m256 half;
#define H(op) _mm256_##op##_ps
enum { HALF = 8 };
static inline half ll_set(real a) { return _mm256_set1_ps(a); }

static inline half ll_scale(half a, half n)
{
    __m256i e = _mm256_cvtps_epi32(n), e0 = _mm256_srai_epi32(e, 1), e1 = _mm256_sub_epi32(e, e0);
    __m256i one = _mm256_set1_epi32(127);
    half s0 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e0, one), 23));
    half s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e1, one), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, s0), s1);
}
static inline half ll_scale_down(half a, half n)
{
    __m256i sum = _mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(0x1.8p23f + 204)));
    return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(sum, 23))),
                         _mm256_set1_ps(0x1p-77f));
}
static inline half ll_exponent(half a)
{
    __m256i e = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(e, _mm256_set1_epi32(127)));
}
/* Halves of two rows to one register: loads do the first step of the transposition. */
static inline half ll_pair(const real *low, const real *high)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}
static inline void ll_transpose(const real *const *row, ptrdiff_t col, half *out)
{
    for (int j = 0; j < 8; j += 4) {
        half r0 = ll_pair(row[0] + col + j, row[4] + col + j);
        half r1 = ll_pair(row[1] + col + j, row[5] + col + j);
        half r2 = ll_pair(row[2] + col + j, row[6] + col + j);
        half r3 = ll_pair(row[3] + col + j, row[7] + col + j);
        half a0 = _mm256_unpacklo_ps(r0, r1), a1 = _mm256_unpackhi_ps(r0, r1);
        half a2 = _mm256_unpacklo_ps(r2, r3), a3 = _mm256_unpackhi_ps(r2, r3);
        out[j] = _mm256_shuffle_ps(a0, a2, 0x44);
        out[j + 1] = _mm256_shuffle_ps(a0, a2, 0xee);
        out[j + 2] = _mm256_shuffle_ps(a1, a3, 0x44);
        out[j + 3] = _mm256_shuffle_ps(a1, a3, 0xee);
    }
}
static inline real ll_sum(half b)
{
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
static inline real ll_top(half b)
{
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

/* The sums of eight vectors `step` apart: the tree of vsum, many at a time. */
static inline half ll_sums(const real *p, ptrdiff_t step)
{
    __m256 a[8], b[4], c[2];
    for (int i = 0; i < 8; i++) /* lanes i + (i + 8) */
        a[i] = _mm256_add_ps(_mm256_loadu_ps(p + i * step), _mm256_loadu_ps(p + i * step + 8));
    for (int i = 0; i < 4; i++) /* i + (i + 4): vectors i and i + 4 to one */
        b[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[i], a[i + 4], 0x20),
                             _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    for (int i = 0; i < 2; i++) /* i + (i + 2) */
        c[i] = _mm256_add_ps(_mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0x44),
                             _mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0xee));
    return _mm256_add_ps(_mm256_shuffle_ps(c[0], c[1], 0x88), /* i + (i + 1) */
                         _mm256_shuffle_ps(c[0], c[1], 0xdd));
}

#else

#define LL_LANES 8
typedef __m256d half;
#define H(op) _mm256_##op##_pd
enum { HALF = 4 };
static inline half ll_set(real a) { return _mm256_set1_pd(a); }

static inline half ll_scale(half a, half n)
{
    __m128i e = _mm256_cvtpd_epi32(n), e0 = _mm_srai_epi32(e, 1), e1 = _mm_sub_epi32(e, e0);
    __m128i one = _mm_set1_epi32(1023);
    __m256i s0 = _mm256_slli_epi64(_mm256_cvtepi32_epi64(_mm_add_epi32(e0, one)), 52);
    __m256i s1 = _mm256_slli_epi64(_mm256_cvtepi32_epi64(_mm_add_epi32(e1, one)), 52);
    return _mm256_mul_pd(_mm256_mul_pd(a, _mm256_castsi256_pd(s0)), _mm256_castsi256_pd(s1));
}
static inline half ll_scale_down(half a, half n)
{
    __m256i sum = _mm256_castpd_si256(_mm256_add_pd(n, _mm256_set1_pd(0x1.8p52 + 1536)));
    return _mm256_mul_pd(_mm256_mul_pd(a, _mm256_castsi256_pd(_mm256_slli_epi64(sum, 52))),
                         _mm256_set1_pd(0x1p-513));
}
static inline half ll_exponent(half a)
{
    /* The exponent's bits beside those of 2^52 are the number 2^52 + exponent. */
    const half two52 = _mm256_set1_pd(0x1p52);
    __m256i e = _mm256_srli_epi64(_mm256_castpd_si256(a), 52);
    half biased = _mm256_or_pd(_mm256_castsi256_pd(e), two52);
    return _mm256_sub_pd(biased, _mm256_set1_pd(0x1p52 + 1023));
}
static inline void ll_transpose(const real *const *row, ptrdiff_t col, half *out)
{
    __m256d r0 = _mm256_loadu_pd(row[0] + col), r1 = _mm256_loadu_pd(row[1] + col);
    __m256d r2 = _mm256_loadu_pd(row[2] + col), r3 = _mm256_loadu_pd(row[3] + col);
    __m256d a0 = _mm256_unpacklo_pd(r0, r1), a1 = _mm256_unpackhi_pd(r0, r1);
    __m256d a2 = _mm256_unpacklo_pd(r2, r3), a3 = _mm256_unpackhi_pd(r2, r3);
    out[0] = _mm256_permute2f128_pd(a0, a2, 0x20);
    out[1] = _mm256_permute2f128_pd(a1, a3, 0x20);
    out[2] = _mm256_permute2f128_pd(a0, a2, 0x31);
    out[3] = _mm256_permute2f128_pd(a1, a3, 0x31);
}
static inline real ll_sum(half b)
{
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}
static inline real ll_top(half b)
{
    __m128d c = _mm_max_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_max_sd(c, _mm_unpackhi_pd(c, c)));
}

/* The sums of four vectors `step` apart: the tree of vsum, many at a time. */
static inline half ll_sums(const real *p, ptrdiff_t step)
{
    __m256d a[4], b[2];
    for (int i = 0; i < 4; i++) /* lanes i + (i + 4) */
        a[i] = _mm256_add_pd(_mm256_loadu_pd(p + i * step), _mm256_loadu_pd(p + i * step + 4));
    for (int i = 0; i < 2; i++) /* i + (i + 2): vectors i and i + 2 to one */
        b[i] = _mm256_add_pd(_mm256_permute2f128_pd(a[i], a[i + 2], 0x20),
                             _mm256_permute2f128_pd(a[i], a[i + 2], 0x31));
    return _mm256_add_pd(_mm256_unpacklo_pd(b[0], b[1]), _mm256_unpackhi_pd(b[0], b[1]));
}

#endif

/* A register: a part of a vector. */
#define LL_PARTS 2
typedef half reg;
static inline reg rzero(void) { return ll_set(0); }
static inline reg rload(const real *p) { return H(loadu)(p); }
static inline void rstore(real *p, reg a) { H(storeu)(p, a); }
static inline reg rfma(reg a, reg b, reg c) { return H(fmadd)(a, b, c); }

typedef struct { half lo, hi; } vec;
typedef vec mask; /* all bits of a lane set, or none */

static inline vec ll_vec(half lo, half hi)
{
    vec v;
    v.lo = lo;
    v.hi = hi;
    return v;
}
static inline vec vset(real a) { return ll_vec(ll_set(a), ll_set(a)); }
static inline vec vload(const real *p) { return ll_vec(H(loadu)(p), H(loadu)(p + HALF)); }
static inline void vstore(real *p, vec a)
{
    H(storeu)(p, a.lo);
    H(storeu)(p + HALF, a.hi);
}
static inline vec vadd(vec a, vec b) { return ll_vec(H(add)(a.lo, b.lo), H(add)(a.hi, b.hi)); }
static inline vec vsub(vec a, vec b) { return ll_vec(H(sub)(a.lo, b.lo), H(sub)(a.hi, b.hi)); }
static inline vec vmul(vec a, vec b) { return ll_vec(H(mul)(a.lo, b.lo), H(mul)(a.hi, b.hi)); }
static inline vec vdiv(vec a, vec b) { return ll_vec(H(div)(a.lo, b.lo), H(div)(a.hi, b.hi)); }
static inline vec vfma(vec a, vec b, vec c)
{
    return ll_vec(H(fmadd)(a.lo, b.lo, c.lo), H(fmadd)(a.hi, b.hi, c.hi));
}
static inline vec vnfma(vec a, vec b, vec c)
{
    return ll_vec(H(fnmadd)(a.lo, b.lo, c.lo), H(fnmadd)(a.hi, b.hi, c.hi));
}
static inline vec vmax(vec a, vec b) { return ll_vec(H(max)(a.lo, b.lo), H(max)(a.hi, b.hi)); }
static inline vec vmin(vec a, vec b) { return ll_vec(H(min)(a.lo, b.lo), H(min)(a.hi, b.hi)); }
static inline vec ll_and(vec a, vec b) { return ll_vec(H(and)(a.lo, b.lo), H(and)(a.hi, b.hi)); }
static inline vec vabs(vec a)
{
    half sign = ll_set((real)-0.0);
    return ll_vec(H(andnot)(sign, a.lo), H(andnot)(sign, a.hi));
}
static inline mask mor(mask a, mask b) { return ll_vec(H(or)(a.lo, b.lo), H(or)(a.hi, b.hi)); }
static inline vec vcopysign(vec magnitude, vec sign)
{
    return mor(vabs(magnitude), ll_and(vset((real)-0.0), sign));
}
static inline vec vround(vec a) { return ll_vec(H(round)(a.lo, 0x08), H(round)(a.hi, 0x08)); }
static inline vec vscale(vec a, vec n) { return ll_vec(ll_scale(a.lo, n.lo), ll_scale(a.hi, n.hi)); }
/* The same for 0.7 < a < 1.42 and n from -1077 (float32: -151) to 0. The last bits of n plus a
 * large number are an exponent to multiply with; what it is too large by comes off in the only
 * rounding. */
static inline vec vscale_down(vec a, vec n)
{
    return ll_vec(ll_scale_down(a.lo, n.lo), ll_scale_down(a.hi, n.hi));
}
static inline vec vexponent(vec a) { return ll_vec(ll_exponent(a.lo), ll_exponent(a.hi)); }
static inline mask vlt(vec a, vec b)
{
    return ll_vec(H(cmp)(a.lo, b.lo, _CMP_LT_OQ), H(cmp)(a.hi, b.hi, _CMP_LT_OQ));
}
static inline mask vnlt(vec a, vec b)
{
    return ll_vec(H(cmp)(a.lo, b.lo, _CMP_NLT_UQ), H(cmp)(a.hi, b.hi, _CMP_NLT_UQ));
}
static inline mask vle(vec a, vec b)
{
    return ll_vec(H(cmp)(a.lo, b.lo, _CMP_LE_OQ), H(cmp)(a.hi, b.hi, _CMP_LE_OQ));
}
static inline mask veq(vec a, vec b)
{
    return ll_vec(H(cmp)(a.lo, b.lo, _CMP_EQ_OQ), H(cmp)(a.hi, b.hi, _CMP_EQ_OQ));
}
static inline mask vunordered(vec a, vec b)
{
    return ll_vec(H(cmp)(a.lo, b.lo, _CMP_UNORD_Q), H(cmp)(a.hi, b.hi, _CMP_UNORD_Q));
}
static inline unsigned mbits(mask a)
{
    return (unsigned)H(movemask)(a.lo) | (unsigned)H(movemask)(a.hi) << HALF;
}
static inline vec vselect(mask m, vec a, vec b)
{
    return ll_vec(H(blendv)(b.lo, a.lo, m.lo), H(blendv)(b.hi, a.hi, m.hi));
}
static inline real vsum(vec a) { return ll_sum(H(add)(a.lo, a.hi)); }
static inline real vtop(vec a) { return ll_top(H(max)(a.lo, a.hi)); }

/* The sums of LL_LANES vectors `step` apart, of which the first `count` matter. */
static inline vec vsums(const real *p, ptrdiff_t step, ptrdiff_t count)
{
    half lo = ll_sums(p, step);
    return ll_vec(lo, count > HALF ? ll_sums(p + HALF * step, step) : lo);
}

static inline void vtranspose(const real *const *row, ptrdiff_t col, vec *out)
{
    half quarter[HALF];
    for (int j = 0; j < LL_LANES; j += HALF) {
        ll_transpose(row, col + j, quarter);
        for (int i = 0; i < HALF; i++)
            out[j + i].lo = quarter[i];
        ll_transpose(row + HALF, col + j, quarter);
        for (int i = 0; i < HALF; i++)
            out[j + i].hi = quarter[i];
    }
}

/* LL_SQUARE rows by as many columns, turned and stored. */
#define LL_SQUARE (LL_LANES / 2)
static inline void vsquare(const real *const *row, ptrdiff_t col, real *out, ptrdiff_t out_row)
{
    half square[HALF];
    ll_transpose(row, col, square);
    for (int i = 0; i < HALF; i++)
        H(storeu)(out + i * out_row, square[i]);
}

#undef H
#endif
