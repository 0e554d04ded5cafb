/* Products of pairs of bfloat16 in AVX512-BF16. The instruction takes the upper half of each word
 * first, then the lower: sum = fma(low, low, fma(high, high, sum)), and subnormals count as zero. */
#ifndef LL_SIMD_BF16_AVX512_H
#define LL_SIMD_BF16_AVX512_H

#if !defined(_MSC_VER) && !defined(__AVX512BF16__)
#error "compile this file with AVX512-BF16 enabled"
#endif

typedef __m512i pairs; /* words of LL_WORD_LANES classes */

static inline pairs load_pairs(const uint32_t *p) { return _mm512_loadu_si512(p); }
static inline void store_pairs(uint32_t *p, pairs a) { _mm512_storeu_si512(p, a); }
static inline pairs no_pairs(void) { return _mm512_setzero_si512(); }

/* Features 0 1 | 2 3 in the lower and upper halves of two words become 2 0 | 3 1: of the even ones,
 * of the odd ones, with the earlier in the upper half. */
static inline pairs cross_even(pairs a, pairs b)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaau, b, _mm512_slli_epi32(a, 16));
}
static inline pairs cross_odd(pairs a, pairs b)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(b, 16), a);
}

static inline reg dot_pairs(reg sum, pairs b, uint32_t x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32((int)x), (__m512bh)b);
}

#endif
