/* Logits of the targets alone: one class of each row. */

/* In lane r the chain of class r of LL_LANES with row r of x. */
static vec pair_chains(ptrdiff_t k, const real *const *x, const real *const *w, ptrdiff_t step)
{
    vec total = vset(0), xp[LL_LANES], wp[LL_LANES];

    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        const ptrdiff_t end = least(pc + LL_KC, k);
        vec sum = vset(0);
        for (ptrdiff_t p = pc, count; p < end; p += count) {
            count = least(LL_LANES, end - p);
            turn_features(x, p, count, 1, xp);
            turn_features(w, p, count, step, wp);
            for (ptrdiff_t q = 0; q < count; q++)
                sum = vfma(xp[q], wp[q], sum);
        }
        total = pc ? vadd(total, sum) : sum;
    }
    return total;
}

/* Logits of one target a row, before the pass that compares others with them; `first` is 0 and x is
 * not packed. Of a row without a target, any. */
static void target_logits(const ll_job *job)
{
    const real *weight = job->weight, *bias = job->bias, *logits = job->logits;
    const ptrdiff_t step = job->packed ? LL_LANES : job->w_col;

    for (ptrdiff_t i = 0; i < job->rows; i += LL_LANES) {
        const real *x[LL_LANES], *w[LL_LANES];
        real logit[LL_LANES], shift[LL_LANES];

        for (ptrdiff_t r = 0; r < LL_LANES; r++) {
            const ptrdiff_t row = least(i + r, job->rows - 1);
            const int64_t target = job->targets[row * job->n_targets], c = target < 0 ? 0 : target;

            shift[r] = bias ? bias[c] : 0;
            if (logits) {
                logit[r] = logits[row * job->z_row + c * job->z_col];
                continue;
            }
            x[r] = (const real *)job->x + row * job->x_row;
            w[r] = weight + (job->packed ? c / LL_LANES * LL_LANES * job->k + c % LL_LANES
                                         : c * job->w_row);
        }
        if (!logits)
            vstore(logit, vadd(pair_chains(job->k, x, w, step), vload(shift)));
        transform(job, logit, 1);
        for (ptrdiff_t r = 0; r < least(LL_LANES, job->rows - i); r++)
            ((real *)job->state.target_logit)[(i + r) * job->n_targets] = logit[r];
    }
}
