/* Single logits of bfloat16 rows and weights: of targets, and of candidates of a screen. The order
 * is that of bf16/: a step of LL_STEP_K features at a time. Lanes are pairs of a row and a class. */
#if LL_REAL == 32
#include "../base/flush.inc.h"

typedef real pair_step[LL_STEP_K][LL_LANES]; /* features of the pairs, zeros behind the last */

LL_TEMPLATE void sum_step(const int by_number, const pair_step x, const pair_step w,
                          const real *before, real *after)
{
    for (ptrdiff_t q = 0; q < LL_LANES; q += LL_PART) {
        reg even = rset(0), odd = rset(0);
        for (ptrdiff_t p = 0; p < LL_STEP_K; p += 2) {
            even = chain_fma(by_number, rload(x[p] + q), rload(w[p] + q), even);
            odd = chain_fma(by_number, rload(x[p + 1] + q), rload(w[p + 1] + q), odd);
        }
        rstore(after + q, chain_add(by_number, rload(before + q),
                                    chain_add(by_number, even, odd)));
    }
}
#if LL_FLUSHES
LL_APART void sum_flushing(const pair_step x, const pair_step w, const real *before, real *after)
{
    sum_step(0, x, w, before, after);
}
#endif

/* Add a step to the sums. */
static void add_step(const pair_step x, const pair_step w, real *sums)
{
    real after[LL_LANES];
    int again = LL_BY_NUMBER;

#if LL_FLUSHES
    flush_mode mode = begin_flushing();
    sum_flushing(x, w, sums, after);
    again = end_flushing(mode);
#endif
#if LL_BY_NUMBER
    if (again)
        sum_step(1, x, w, sums, after);
#endif
    (void)again;
    memcpy(sums, after, sizeof after);
}

/* Sums to logits. */
static void add_pair_bias(real *sums, const real *bias)
{
    for (ptrdiff_t i = 0; i < LL_LANES; i++)
        sums[i] = flushed_sum(sums[i], bias[i]);
}
#endif
