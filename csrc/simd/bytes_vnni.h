/* Products of bytes in AVX-512 VNNI: one instruction for four features of 16 classes. */
#ifndef LL_SIMD_BYTES_VNNI_H
#define LL_SIMD_BYTES_VNNI_H

#if !defined(_MSC_VER) && !defined(__AVX512VNNI__)
#error "compile this file with AVX-512 VNNI enabled"
#endif

#define LL_BYTE_OFFSET 128 /* what weights have too much */

typedef __m512i ireg;
typedef __m512i breg;
typedef int32_t word;

static inline ireg riset(int32_t a) { return _mm512_set1_epi32(a); }
static inline void ristore(int32_t *p, ireg a) { _mm512_storeu_si512(p, a); }
static inline breg rbload(const uint8_t *p) { return _mm512_loadu_si512(p); }
static inline word make_word(const int8_t *q)
{
    word r;
    memcpy(&r, q, sizeof r);
    return r;
}
static inline ireg ridot(ireg sum, breg b, word x)
{
    return _mm512_dpbusd_epi32(sum, b, _mm512_set1_epi32(x));
}
static inline reg rconvert(const int32_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
}
static inline void rbstore(uint8_t *p, const reg *q)
{
    __m512i low = _mm512_set1_epi32(255), bytes = _mm512_setzero_si512();
    for (int j = 3; j >= 0; j--)
        bytes = _mm512_or_si512(_mm512_slli_epi32(bytes, 8),
                                _mm512_and_si512(_mm512_cvtps_epi32(q[j]), low));
    _mm512_storeu_si512(p, _mm512_xor_si512(bytes, _mm512_set1_epi32((int)0x80808080u)));
}
static inline void rqstore(int8_t *p, reg q)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(q)));
}
static inline reg rhalves(const int shift, const uint8_t *p)
{
    __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    b = _mm512_and_si512(_mm512_srli_epi32(b, (unsigned)shift), _mm512_set1_epi32(15));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(b, _mm512_set1_epi32(8)));
}

#include "bytes_parts.h"
#endif
