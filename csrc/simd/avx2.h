/* The vocabulary in AVX2, FMA and F16C: two ymm registers are one vector of virtual lanes. */
#ifndef LL_SIMD_AVX2_H
#define LL_SIMD_AVX2_H

#if !defined(__AVX2__) || (!defined(_MSC_VER) && !(defined(__FMA__) && defined(__F16C__)))
#error "compile this file with AVX2, FMA and F16C enabled"
#endif
#include <immintrin.h>

#define LL_PARTS 2

#if LL_REAL == 32

typedef __m256 reg;
#define H(op) _mm256_##op##_ps

static inline reg rscale(reg a, reg n)
{
    __m256i e = _mm256_cvtps_epi32(n), e0 = _mm256_srai_epi32(e, 1), e1 = _mm256_sub_epi32(e, e0);
    __m256i one = _mm256_set1_epi32(127);
    reg s0 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e0, one), 23));
    reg s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e1, one), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, s0), s1);
}
static inline reg rscale_down(reg a, reg n)
{
    __m256i sum = _mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(0x1.8p23f + 204)));
    return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(sum, 23))),
                         _mm256_set1_ps(0x1p-77f));
}
static inline reg rexponent(reg a)
{
    __m256i e = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(e, _mm256_set1_epi32(127)));
}
/* Halves of two rows to one register: loads do the first step of the transposition. */
static inline reg ll_pair(const real *low, const real *high)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}
static inline void rtranspose(const real *const *row, ptrdiff_t col, reg *out)
{
    for (int j = 0; j < 8; j += 4) {
        reg r0 = ll_pair(row[0] + col + j, row[4] + col + j);
        reg r1 = ll_pair(row[1] + col + j, row[5] + col + j);
        reg r2 = ll_pair(row[2] + col + j, row[6] + col + j);
        reg r3 = ll_pair(row[3] + col + j, row[7] + col + j);
        reg a0 = _mm256_unpacklo_ps(r0, r1), a1 = _mm256_unpackhi_ps(r0, r1);
        reg a2 = _mm256_unpacklo_ps(r2, r3), a3 = _mm256_unpackhi_ps(r2, r3);
        out[j] = _mm256_shuffle_ps(a0, a2, 0x44);
        out[j + 1] = _mm256_shuffle_ps(a0, a2, 0xee);
        out[j + 2] = _mm256_shuffle_ps(a1, a3, 0x44);
        out[j + 3] = _mm256_shuffle_ps(a1, a3, 0xee);
    }
}
static inline reg rnarrow(const int type, const uint16_t *p)
{
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)p);
    if (type == LL_FLOAT16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
static inline reg ll_float16(__m256i words) /* their lower halves; the upper ones are 0 */
{
    __m256i pairs = _mm256_packus_epi32(words, words);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(pairs, 0x08)));
}
static inline reg rlow(const int type, const uint32_t *p)
{
    __m256i words = _mm256_loadu_si256((const __m256i *)(const void *)p);
    if (type == LL_FLOAT16)
        return ll_float16(_mm256_and_si256(words, _mm256_set1_epi32(0xffff)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
static inline reg rhigh(const int type, const uint32_t *p)
{
    __m256i words = _mm256_loadu_si256((const __m256i *)(const void *)p);
    if (type == LL_FLOAT16)
        return ll_float16(_mm256_srli_epi32(words, 16));
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000u)));
}
static inline real rsum(reg b)
{
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
static inline real rtop(reg b)
{
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

static inline reg rsums(const reg *a)
{
    reg b[4], c[2];
    for (int i = 0; i < 4; i++) /* lanes i + (i + 4): registers i and i + 4 to one */
        b[i] = _mm256_add_ps(_mm256_permute2f128_ps(a[i], a[i + 4], 0x20),
                             _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    for (int i = 0; i < 2; i++) /* i + (i + 2) */
        c[i] = _mm256_add_ps(_mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0x44),
                             _mm256_shuffle_ps(b[2 * i], b[2 * i + 1], 0xee));
    return _mm256_add_ps(_mm256_shuffle_ps(c[0], c[1], 0x88), /* i + (i + 1) */
                         _mm256_shuffle_ps(c[0], c[1], 0xdd));
}

#else

typedef __m256d reg;
#define H(op) _mm256_##op##_pd

static inline reg rscale(reg a, reg n)
{
    __m128i e = _mm256_cvtpd_epi32(n), e0 = _mm_srai_epi32(e, 1), e1 = _mm_sub_epi32(e, e0);
    __m128i one = _mm_set1_epi32(1023);
    __m256i s0 = _mm256_slli_epi64(_mm256_cvtepi32_epi64(_mm_add_epi32(e0, one)), 52);
    __m256i s1 = _mm256_slli_epi64(_mm256_cvtepi32_epi64(_mm_add_epi32(e1, one)), 52);
    return _mm256_mul_pd(_mm256_mul_pd(a, _mm256_castsi256_pd(s0)), _mm256_castsi256_pd(s1));
}
static inline reg rscale_down(reg a, reg n)
{
    __m256i sum = _mm256_castpd_si256(_mm256_add_pd(n, _mm256_set1_pd(0x1.8p52 + 1536)));
    return _mm256_mul_pd(_mm256_mul_pd(a, _mm256_castsi256_pd(_mm256_slli_epi64(sum, 52))),
                         _mm256_set1_pd(0x1p-513));
}
static inline reg rexponent(reg a)
{
    /* The exponent's bits beside those of 2^52 are the number 2^52 + exponent. */
    const reg two52 = _mm256_set1_pd(0x1p52);
    __m256i e = _mm256_srli_epi64(_mm256_castpd_si256(a), 52);
    reg biased = _mm256_or_pd(_mm256_castsi256_pd(e), two52);
    return _mm256_sub_pd(biased, _mm256_set1_pd(0x1p52 + 1023));
}
static inline void rtranspose(const real *const *row, ptrdiff_t col, reg *out)
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
static inline real rsum(reg b)
{
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}
static inline real rtop(reg b)
{
    __m128d c = _mm_max_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_max_sd(c, _mm_unpackhi_pd(c, c)));
}

static inline reg rsums(const reg *a)
{
    reg b[2];
    for (int i = 0; i < 2; i++) /* lanes i + (i + 2): registers i and i + 2 to one */
        b[i] = _mm256_add_pd(_mm256_permute2f128_pd(a[i], a[i + 2], 0x20),
                             _mm256_permute2f128_pd(a[i], a[i + 2], 0x31));
    return _mm256_add_pd(_mm256_unpacklo_pd(b[0], b[1]), _mm256_unpackhi_pd(b[0], b[1]));
}

#endif

typedef reg reg_mask; /* all bits of a lane set, or none */

static inline reg rset(real a) { return H(set1)(a); }
static inline reg rload(const real *p) { return H(loadu)(p); }
static inline void rstore(real *p, reg a) { H(storeu)(p, a); }
static inline reg radd(reg a, reg b) { return H(add)(a, b); }
static inline reg rsub(reg a, reg b) { return H(sub)(a, b); }
static inline reg rmul(reg a, reg b) { return H(mul)(a, b); }
static inline reg rdiv(reg a, reg b) { return H(div)(a, b); }
static inline reg rfma(reg a, reg b, reg c) { return H(fmadd)(a, b, c); }
static inline reg rnfma(reg a, reg b, reg c) { return H(fnmadd)(a, b, c); }
static inline reg rmax(reg a, reg b) { return H(max)(a, b); }
static inline reg rmin(reg a, reg b) { return H(min)(a, b); }
static inline reg rabs(reg a) { return H(andnot)(rset((real)-0.0), a); }
static inline reg rcopysign(reg a, reg sign)
{
    return H(or)(rabs(a), H(and)(rset((real)-0.0), sign));
}
static inline reg rround(reg a) { return H(round)(a, 0x08); }
static inline reg_mask rlt(reg a, reg b) { return H(cmp)(a, b, _CMP_LT_OQ); }
static inline reg_mask rnlt(reg a, reg b) { return H(cmp)(a, b, _CMP_NLT_UQ); }
static inline reg_mask rle(reg a, reg b) { return H(cmp)(a, b, _CMP_LE_OQ); }
static inline reg_mask req(reg a, reg b) { return H(cmp)(a, b, _CMP_EQ_OQ); }
static inline reg_mask runordered(reg a, reg b) { return H(cmp)(a, b, _CMP_UNORD_Q); }
static inline reg_mask ror(reg_mask a, reg_mask b) { return H(or)(a, b); }
static inline unsigned rbits(reg_mask a) { return (unsigned)H(movemask)(a); }
static inline reg rselect(reg_mask m, reg a, reg b) { return H(blendv)(b, a, m); }

#include "parts.h"
#undef H
#endif
