/* Products of bfloat16 by multiply-adds of float32: numbers are widened, rows when they are packed,
 * weights in registers. */
#include "../base/flush.inc.h"

#define LL_BF16_ROWS LL_FOR(12, 6, 6, 6)
#define LL_ROW_NUMBERS 2   /* to a word */
#define LL_NUMBERS_AHEAD 0
typedef float row_number;

static inline row_number pack_number(const uint16_t *x, ptrdiff_t p, ptrdiff_t k)
{
    return p < k ? ll_widen(LL_BFLOAT16, x[p]) : 0;
}

/* Number by number: a word's feature of row i of a micro-panel. */
static inline float feature(const row_number *a, ptrdiff_t height, ptrdiff_t i, ptrdiff_t odd)
{
    return a[odd * height + i];
}

/* A word of each row and of a register of classes, into their two chains. */
LL_TEMPLATE void add_word(const int height, reg *even, reg *odd, const row_number *a,
                          const uint32_t *b)
{
    const reg low = rlow(LL_BFLOAT16, b), high = rhigh(LL_BFLOAT16, b);

    LL_UNROLL
    for (int i = 0; i < height; i++) {
        even[i] = rfma(rset(a[i]), low, even[i]);
        odd[i] = rfma(rset(a[height + i]), high, odd[i]);
    }
}

/* The same without memory. Every chain tends to 2. */
static inline void spin_word(reg *even, reg *odd)
{
    *even = rfma(*even, rset(0.5f), rset(1));
    *odd = rfma(*odd, rset(0.5f), rset(1));
}

#include "chains.inc.h"
