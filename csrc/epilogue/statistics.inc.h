/* Statistics of the softmax beside its denominator: sums over every class but the largest of a term
 * of d = z - max <= 0 and e = exp(d). What there is to know of each is here and in the list of
 * logitless.h; `which` is a constant. One is asked for with all before it, of which it is made: the
 * `count` first of them.
 *
 *     LL_MOMENT   e * d, for the entropy log1p(rest) - moment / (1 + rest)
 *     LL_SECOND   e * d^2, for the variance second / (1 + rest) - (moment / (1 + rest))^2
 */
/* Backwards: each moves while those before it are as they were. */
#define LL_EACH_STATISTIC(which, count)                                                          \
    LL_UNROLL                                                                                    \
    for (int which = LL_FIRST_STATISTIC + (count) - 1; which >= LL_FIRST_STATISTIC; which--)

/* Another class. For -inf and for the largest one e = 0 and d is finite. */
LL_TEMPLATE vec statistic_add(int which, vec sum, vec e, vec d)
{
    switch (which) {
    case LL_MOMENT: return vfma(e, d, sum);
    default: /* LL_SECOND */ return vfma(vmul(e, d), d, sum);
    }
}

/* The largest logit is another: every d becomes d + shift, every e becomes e * scale. The largest
 * so far joins, with d = 0 and e = 1; `all` = 1 + rest is the sum of e with it, `before` the
 * statistic before this one. States that are merged round once. */
LL_TEMPLATE vec statistic_move(int which, vec sum, vec before, vec all, vec shift, vec scale,
                               const int merge)
{
    vec twice;

    switch (which) {
    case LL_MOMENT:
        sum = merge ? vfma(shift, all, sum) : vadd(sum, vmul(shift, all));
        return vmul_zero(scale, sum);
    default: /* LL_SECOND */
        twice = vadd(before, before);
        twice = merge ? vfma(shift, all, twice) : vadd(twice, vmul(shift, all));
        sum = merge ? vfma(shift, twice, sum) : vadd(sum, vmul(shift, twice));
        return vmul_zero(scale, sum);
    }
}

/* What the caller wants to know. */
LL_TEMPLATE vec statistic_finish(int which, vec sum, vec rest, vec log_norm)
{
    switch (which) {
    case LL_MOMENT: return vsub(log_norm, vdiv(sum, vadd(vset(1), rest)));
    default: return sum;
    }
}
