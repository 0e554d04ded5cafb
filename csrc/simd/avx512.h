/* The vocabulary in AVX-512: one zmm register is one vector of virtual lanes. */
#ifndef LL_SIMD_AVX512_H
#define LL_SIMD_AVX512_H

#if !defined(_MSC_VER) && !(defined(__AVX512F__) && defined(__AVX512DQ__))
#error "compile this file with AVX-512 F and DQ enabled"
#endif
#include <immintrin.h>

#define LL_PARTS 1

#if LL_REAL == 32
typedef __m512 reg;
typedef __mmask16 reg_mask;
#define Z(op) _mm512_##op##_ps
#define ZMASK(op) _mm512_##op##_ps_mask
#else
typedef __m512d reg;
typedef __mmask8 reg_mask;
#define Z(op) _mm512_##op##_pd
#define ZMASK(op) _mm512_##op##_pd_mask
#endif

static inline reg rset(real a) { return Z(set1)(a); }
static inline reg rload(const real *p) { return Z(loadu)(p); }
static inline void rstore(real *p, reg a) { Z(storeu)(p, a); }
static inline reg radd(reg a, reg b) { return Z(add)(a, b); }
static inline reg rsub(reg a, reg b) { return Z(sub)(a, b); }
static inline reg rmul(reg a, reg b) { return Z(mul)(a, b); }
static inline reg rdiv(reg a, reg b) { return Z(div)(a, b); }
static inline reg rfma(reg a, reg b, reg c) { return Z(fmadd)(a, b, c); }
static inline reg rnfma(reg a, reg b, reg c) { return Z(fnmadd)(a, b, c); }
static inline reg rmax(reg a, reg b) { return Z(max)(a, b); }
static inline reg rmin(reg a, reg b) { return Z(min)(a, b); }
static inline reg rabs(reg a) { return Z(andnot)(rset((real)-0.0), a); }
static inline reg rcopysign(reg a, reg sign)
{
    return Z(or)(rabs(a), Z(and)(rset((real)-0.0), sign));
}
static inline reg rround(reg a) { return Z(roundscale)(a, 0x08); }
static inline reg rscale(reg a, reg n) { return Z(scalef)(a, n); }
static inline reg rscale_down(reg a, reg n) { return rscale(a, n); }
static inline reg rexponent(reg a) { return Z(getexp)(a); }
static inline reg_mask rlt(reg a, reg b) { return ZMASK(cmp)(a, b, _CMP_LT_OQ); }
static inline reg_mask rnlt(reg a, reg b) { return ZMASK(cmp)(a, b, _CMP_NLT_UQ); }
static inline reg_mask rle(reg a, reg b) { return ZMASK(cmp)(a, b, _CMP_LE_OQ); }
static inline reg_mask req(reg a, reg b) { return ZMASK(cmp)(a, b, _CMP_EQ_OQ); }
static inline reg_mask runordered(reg a, reg b) { return ZMASK(cmp)(a, b, _CMP_UNORD_Q); }
static inline reg_mask ror(reg_mask a, reg_mask b) { return (reg_mask)(a | b); }
static inline unsigned rbits(reg_mask a) { return a; }
static inline reg rselect(reg_mask m, reg a, reg b) { return Z(mask_blend)(m, b, a); }

#if LL_REAL == 32

static inline __m256 ll_fold(reg a, int max)
{
    __m256 low = _mm512_castps512_ps256(a), high = _mm512_extractf32x8_ps(a, 1);
    return max ? _mm256_max_ps(low, high) : _mm256_add_ps(low, high);
}
static inline real rsum(reg a)
{
    __m256 b = ll_fold(a, 0);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
static inline real rtop(reg a)
{
    __m256 b = ll_fold(a, 1);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

static inline reg rnarrow(const int type, const uint16_t *p)
{
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)p);
    if (type == LL_FLOAT16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
static inline reg rlow(const int type, const uint32_t *p)
{
    __m512i words = _mm512_loadu_si512(p);
    if (type == LL_FLOAT16)
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
static inline reg rhigh(const int type, const uint32_t *p)
{
    __m512i words = _mm512_loadu_si512(p);
    if (type == LL_FLOAT16)
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u)));
}

/* Two registers become one: what is to be added to the half that stays comes from the other half,
 * so that one shuffle serves both; taken in this order, the sums end in theirs. */
static inline reg rsums(const reg *r)
{
    static const int order[16] = { 0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15 };
    __m512 a[8], b[4], c[2];

    for (int i = 0; i < 8; i++) { /* lanes i + (i + 8) */
        __m512 r0 = r[order[2 * i]], r1 = r[order[2 * i + 1]];
        a[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, r0, r1),
                             _mm512_shuffle_f32x4(r0, r1, 0x4e));
    }
    for (int i = 0; i < 4; i++) { /* i + (i + 4) */
        __m512 odd = _mm512_mask_blend_ps(0xf0f0, a[2 * i + 1], a[2 * i]);
        b[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, a[2 * i], a[2 * i + 1]),
                             _mm512_shuffle_f32x4(odd, odd, 0xb1));
    }
    for (int i = 0; i < 2; i++) /* i + (i + 2) */
        c[i] = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, b[2 * i], b[2 * i + 1]),
                             _mm512_shuffle_ps(b[2 * i], b[2 * i + 1], 0x4e));
    /* i + (i + 1) */
    return _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, c[0], c[1]),
                         _mm512_permute_ps(_mm512_mask_blend_ps(0xaaaa, c[1], c[0]), 0xb1));
}

static inline void rtranspose(const real *const *row, ptrdiff_t col, reg *out)
{
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        __m512 r0 = _mm512_loadu_ps(row[i] + col), r1 = _mm512_loadu_ps(row[i + 1] + col);
        a[i] = _mm512_unpacklo_ps(r0, r1);
        a[i + 1] = _mm512_unpackhi_ps(r0, r1);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_castpd_ps(
                _mm512_unpacklo_pd(_mm512_castps_pd(a[i + j]), _mm512_castps_pd(a[i + 2 + j])));
            b[i + 2 * j + 1] = _mm512_castpd_ps(
                _mm512_unpackhi_pd(_mm512_castps_pd(a[i + j]), _mm512_castps_pd(a[i + 2 + j])));
        }
    for (int j = 0; j < 4; j++) {
        __m512 lo01 = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88);
        __m512 hi01 = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
        __m512 lo23 = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
        __m512 hi23 = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
        out[j] = _mm512_shuffle_f32x4(lo01, lo23, 0x88);
        out[8 + j] = _mm512_shuffle_f32x4(lo01, lo23, 0xdd);
        out[4 + j] = _mm512_shuffle_f32x4(hi01, hi23, 0x88);
        out[12 + j] = _mm512_shuffle_f32x4(hi01, hi23, 0xdd);
    }
}

#else

static inline __m256d ll_fold(reg a, int max)
{
    __m256d low = _mm512_castpd512_pd256(a), high = _mm512_extractf64x4_pd(a, 1);
    return max ? _mm256_max_pd(low, high) : _mm256_add_pd(low, high);
}
static inline real rsum(reg a)
{
    __m256d b = ll_fold(a, 0);
    __m128d c = _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_add_sd(c, _mm_unpackhi_pd(c, c)));
}
static inline real rtop(reg a)
{
    __m256d b = ll_fold(a, 1);
    __m128d c = _mm_max_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1));
    return _mm_cvtsd_f64(_mm_max_sd(c, _mm_unpackhi_pd(c, c)));
}

/* See above. */
static inline reg rsums(const reg *r)
{
    static const int order[8] = { 0, 4, 2, 6, 1, 5, 3, 7 };
    __m512d a[4], b[2];
    for (int i = 0; i < 4; i++) { /* lanes i + (i + 4) */
        __m512d r0 = r[order[2 * i]], r1 = r[order[2 * i + 1]];
        a[i] = _mm512_add_pd(_mm512_mask_blend_pd(0xf0, r0, r1),
                             _mm512_shuffle_f64x2(r0, r1, 0x4e));
    }
    for (int i = 0; i < 2; i++) { /* i + (i + 2) */
        __m512d odd = _mm512_mask_blend_pd(0xcc, a[2 * i + 1], a[2 * i]);
        b[i] = _mm512_add_pd(_mm512_mask_blend_pd(0xcc, a[2 * i], a[2 * i + 1]),
                             _mm512_shuffle_f64x2(odd, odd, 0xb1));
    }
    /* i + (i + 1) */
    return _mm512_add_pd(_mm512_mask_blend_pd(0xaa, b[0], b[1]),
                         _mm512_shuffle_pd(b[0], b[1], 0x55));
}

static inline void rtranspose(const real *const *row, ptrdiff_t col, reg *out)
{
    __m512d a[8];
    for (int i = 0; i < 8; i += 2) {
        __m512d r0 = _mm512_loadu_pd(row[i] + col), r1 = _mm512_loadu_pd(row[i + 1] + col);
        a[i] = _mm512_unpacklo_pd(r0, r1);
        a[i + 1] = _mm512_unpackhi_pd(r0, r1);
    }
    for (int j = 0; j < 2; j++) {
        __m512d lo01 = _mm512_shuffle_f64x2(a[j], a[2 + j], 0x88);
        __m512d hi01 = _mm512_shuffle_f64x2(a[j], a[2 + j], 0xdd);
        __m512d lo23 = _mm512_shuffle_f64x2(a[4 + j], a[6 + j], 0x88);
        __m512d hi23 = _mm512_shuffle_f64x2(a[4 + j], a[6 + j], 0xdd);
        out[j] = _mm512_shuffle_f64x2(lo01, lo23, 0x88);
        out[4 + j] = _mm512_shuffle_f64x2(lo01, lo23, 0xdd);
        out[2 + j] = _mm512_shuffle_f64x2(hi01, hi23, 0x88);
        out[6 + j] = _mm512_shuffle_f64x2(hi01, hi23, 0xdd);
    }
}

#endif

#include "parts.h"
#undef Z
#undef ZMASK
#endif
