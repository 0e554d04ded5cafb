/* Logits of the targets alone: one class of each row. */

/* In lane r the chain of class r of LL_LANES with row r of x. */
static vec dot_pairs(ptrdiff_t k, const real *const *x, const wreal *const *w, ptrdiff_t step)
{
    vec total = vset(0), xp[LL_LANES], wp[LL_LANES];

    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        const ptrdiff_t end = least(pc + LL_KC, k);
        vec sum = vset(0);
        for (ptrdiff_t p = pc, count; p < end; p += count) {
            count = least(LL_LANES, end - p);
            transpose_features(x, p, count, 1, xp);
            transpose_features(w, p, count, step, wp);
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
    const ll_product *p = &job->product;
    const ll_question *q = &job->question;
    const wreal *weight = p->weight;
    const real *bias = p->bias, *logits = p->logits;
    const ptrdiff_t step = p->packed ? LL_LANES : p->w_col;

    for (ptrdiff_t i = 0; i < job->rows; i += LL_LANES) {
        const real *x[LL_LANES];
        const wreal *w[LL_LANES];
        real logit[LL_LANES], shift[LL_LANES];

        for (ptrdiff_t r = 0; r < LL_LANES; r++) {
            const ptrdiff_t row = least(i + r, job->rows - 1);
            const int64_t target = q->targets[row * q->n_targets], c = target < 0 ? 0 : target;

            shift[r] = bias ? bias[c] : 0;
            if (logits) {
                logit[r] = logits[row * p->z_row + c * p->z_col];
                continue;
            }
            x[r] = (const real *)p->x + row * p->x_row;
            w[r] = weight
                   + (p->packed ? c / LL_LANES * LL_LANES * p->k + c % LL_LANES : c * p->w_row);
        }
        if (!logits)
            vstore(logit, vadd(dot_pairs(p->k, x, w, step), vload(shift)));
        transform(p, logit, 1);
        for (ptrdiff_t r = 0; r < least(LL_LANES, job->rows - i); r++)
            ((real *)job->output.state.target_logit)[(i + r) * q->n_targets] = logit[r];
    }
}
