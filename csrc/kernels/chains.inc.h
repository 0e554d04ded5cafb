/* Logits of one vector of classes that is used once: its weights are turned in registers, not
 * packed. The chains are those of the micro-kernel. */

/* `count` features from p on, `step` apart, of LL_LANES rows or classes, turned. */
static inline void turn_features(const real *const *row, ptrdiff_t p, ptrdiff_t count,
                                 ptrdiff_t step, vec *out)
{
    real turned[LL_LANES][LL_LANES];

    if (step == 1 && count == LL_LANES) {
        vtranspose(row, p, out);
        return;
    }
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        for (ptrdiff_t q = 0; q < count; q++)
            turned[q][r] = row[r][(p + q) * step];
    for (ptrdiff_t q = 0; q < count; q++)
        out[q] = vload(turned[q]);
}

/* In lane r the chains of class r of LL_LANES: with row r of x where these are `pairs`, else with
 * its only row. What lies `ahead` of the weights of the latter is needed next. */
LL_TEMPLATE vec chains(const int pairs, ptrdiff_t k, const real *const *x, const real *const *w,
                       ptrdiff_t step, ptrdiff_t ahead)
{
    vec total = vset(0), xp[LL_LANES], wp[LL_LANES];

    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        const ptrdiff_t end = least(pc + LL_KC, k);
        vec sum = vset(0);
        for (ptrdiff_t p = pc, count; p < end; p += count) {
            count = least(LL_LANES, end - p);
            if (pairs)
                turn_features(x, p, count, 1, xp);
            for (ptrdiff_t r = 0; !pairs && r < LL_LANES; r++)
                prefetch_to_l2(w[r] + p + ahead);
            turn_features(w, p, count, step, wp);
            for (ptrdiff_t q = 0; q < count; q++)
                sum = vfma(pairs ? xp[q] : vset(x[0][p + q]), wp[q], sum);
        }
        total = pc ? vadd(total, sum) : sum;
    }
    return total;
}
