/* Products of bytes in AVX2. Its instruction for bytes adds pairs into 16 bits and saturates; so
 * bytes are widened to 16 bits first, whose pairs add up in 32 bits exactly. */
#ifndef LL_SIMD_BYTES_AVX2_H
#define LL_SIMD_BYTES_AVX2_H

#define LL_BYTE_OFFSET 128 /* what weights have too much */

typedef struct { __m256i at[2]; } ivec;
typedef struct { __m256i even[2], odd[2]; } quad_bytes; /* features 0 and 2, 1 and 3 */
typedef struct { int32_t even, odd; } word;

static inline ivec iset(int32_t a)
{
    ivec r = { { _mm256_set1_epi32(a), _mm256_set1_epi32(a) } };
    return r;
}
static inline void istore(int32_t *p, ivec a)
{
    for (int i = 0; i < 2; i++)
        _mm256_storeu_si256((__m256i *)(void *)(p + 8 * i), a.at[i]);
}
static inline quad_bytes bload(const uint8_t *p)
{
    quad_bytes r;
    for (int i = 0; i < 2; i++) {
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32 * i));
        r.even[i] = _mm256_and_si256(b, _mm256_set1_epi16(255));
        r.odd[i] = _mm256_srli_epi16(b, 8);
    }
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
static inline ivec idot(ivec sum, quad_bytes b, word x)
{
    __m256i even = _mm256_set1_epi32(x.even), odd = _mm256_set1_epi32(x.odd);
    for (int i = 0; i < 2; i++) {
        sum.at[i] = _mm256_add_epi32(sum.at[i], _mm256_madd_epi16(b.even[i], even));
        sum.at[i] = _mm256_add_epi32(sum.at[i], _mm256_madd_epi16(b.odd[i], odd));
    }
    return sum;
}
static inline vec vconvert(const int32_t *p)
{
    const __m256i *q = (const __m256i *)(const void *)p;
    return ll_vec(_mm256_cvtepi32_ps(_mm256_loadu_si256(q)),
                  _mm256_cvtepi32_ps(_mm256_loadu_si256(q + 1)));
}
/* Whole numbers from -127 to 127 of four features, as bload wants them. */
static inline void bstore(uint8_t *p, const vec *q)
{
    __m256i low = _mm256_set1_epi32(255), flip = _mm256_set1_epi32((int)0x80808080u);
    for (int i = 0; i < 2; i++) {
        __m256i bytes = _mm256_setzero_si256();
        for (int j = 3; j >= 0; j--) {
            __m256i whole = _mm256_cvtps_epi32(i ? q[j].hi : q[j].lo);
            bytes = _mm256_or_si256(_mm256_slli_epi32(bytes, 8), _mm256_and_si256(whole, low));
        }
        _mm256_storeu_si256((__m256i *)(void *)(p + 32 * i), _mm256_xor_si256(bytes, flip));
    }
}
/* Whole numbers from -127 to 127 as bytes. */
static inline void qstore(int8_t *p, vec q)
{
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(q.lo), _mm256_cvtps_epi32(q.hi));
    words = _mm256_permute4x64_epi64(words, 0xd8); /* packing goes by halves */
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm_packs_epi16(_mm256_castsi256_si128(words),
                                     _mm256_extracti128_si256(words, 1)));
}

#endif
