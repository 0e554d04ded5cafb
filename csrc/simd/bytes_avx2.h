/* Products of bytes in AVX2. Its instruction for bytes adds pairs into 16 bits and saturates; so
 * bytes are widened to 16 bits first, whose pairs add up in 32 bits exactly. */
#ifndef LL_SIMD_BYTES_AVX2_H
#define LL_SIMD_BYTES_AVX2_H

#define LL_BYTE_OFFSET 128 /* what weights have too much */

typedef __m256i ireg;
typedef struct { __m256i even, odd; } breg; /* features 0 and 2, 1 and 3 */
typedef struct { int32_t even, odd; } word;

static inline ireg riset(int32_t a) { return _mm256_set1_epi32(a); }
static inline void ristore(int32_t *p, ireg a) { _mm256_storeu_si256((__m256i *)(void *)p, a); }
static inline breg rbload(const uint8_t *p)
{
    __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)p);
    breg r = { _mm256_and_si256(b, _mm256_set1_epi16(255)), _mm256_srli_epi16(b, 8) };
    return r;
}
static inline int32_t ll_halves(int8_t low, int8_t high)
{
    int16_t pair[2] = { low, high };
    int32_t r;
    memcpy(&r, pair, sizeof r);
    return r;
}
static inline word make_word(const int8_t *q)
{
    word r = { ll_halves(q[0], q[2]), ll_halves(q[1], q[3]) };
    return r;
}
static inline ireg ridot(ireg sum, breg b, word x)
{
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(b.even, _mm256_set1_epi32(x.even)));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(b.odd, _mm256_set1_epi32(x.odd)));
}
static inline reg rconvert(const int32_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline void rbstore(uint8_t *p, const reg *q)
{
    __m256i low = _mm256_set1_epi32(255), bytes = _mm256_setzero_si256();
    for (int j = 3; j >= 0; j--)
        bytes = _mm256_or_si256(_mm256_slli_epi32(bytes, 8),
                                _mm256_and_si256(_mm256_cvtps_epi32(q[j]), low));
    bytes = _mm256_xor_si256(bytes, _mm256_set1_epi32((int)0x80808080u));
    _mm256_storeu_si256((__m256i *)(void *)p, bytes);
}
static inline void rqstore(int8_t *p, reg q)
{
    __m256i whole = _mm256_cvtps_epi32(q);
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole),
                                    _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(words, words));
}
static inline reg rhalves(const int shift, const uint8_t *p)
{
    __m256i b = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    b = _mm256_and_si256(_mm256_srli_epi32(b, shift), _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(b, _mm256_set1_epi32(8)));
}

#include "bytes_parts.h"
#endif
