/* Single logits of bfloat16 rows and weights: of targets, and of candidates of a screen. The order
 * is that of bf16/: a step of LL_STEP_K features at a time. Lanes are pairs of a row and a class. */
#if LL_REAL == 32
#include "../base/flush.inc.h"

typedef real pair_step[LL_STEP_K][LL_LANES]; /* features of the pairs, zeros behind the last */

static void sum_by_number(const pair_step x, const pair_step w, const real *before, real *after)
{
    for (ptrdiff_t i = 0; i < LL_LANES; i++) {
        real even = 0, odd = 0;
        for (ptrdiff_t p = 0; p < LL_STEP_K; p += 2) {
            even = flushed_fma(x[p][i], w[p][i], even);
            odd = flushed_fma(x[p + 1][i], w[p + 1][i], odd);
        }
        after[i] = flushed_sum(before[i], flushed_sum(even, odd));
    }
}

#if LL_FLUSHES
LL_APART void sum_flushing(const pair_step x, const pair_step w, const real *before, real *after)
{
    vec even = vset(0), odd = vset(0);

    for (ptrdiff_t p = 0; p < LL_STEP_K; p += 2) {
        even = vfma(vload(x[p]), vload(w[p]), even);
        odd = vfma(vload(x[p + 1]), vload(w[p + 1]), odd);
    }
    vstore(after, vadd(vload(before), vadd(even, odd)));
}
#endif

/* Add a step to the sums. */
static void add_step(const pair_step x, const pair_step w, real *sums)
{
    const flush_mode mode = begin_flushing();
    real after[LL_LANES];

#if LL_FLUSHES
    sum_flushing(x, w, sums, after);
#endif
    if (is_by_number())
        sum_by_number(x, w, sums, after);
    end_flushing(mode);
    memcpy(sums, after, sizeof after);
}

/* Sums to logits. */
static void add_pair_bias(real *sums, const real *bias)
{
    for (ptrdiff_t i = 0; i < LL_LANES; i++)
        sums[i] = flushed_sum(sums[i], bias[i]);
}
#endif
