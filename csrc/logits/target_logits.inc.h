/* Logits of the targets alone: one class of each row. */

/* In lane r the chain of class r of LL_LANES with row r of x. */
static vec dot_pairs(ptrdiff_t k, const real *const *x, const real *const *w, ptrdiff_t step)
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

#if LL_REAL == 32
/* The same of weights of 16 bits: features [p, p + count) of the classes c of LL_LANES rows. */
static void narrow_features(const ll_product *from, const int64_t *c, ptrdiff_t p, ptrdiff_t count,
                            real (*out)[LL_LANES])
{
    for (ptrdiff_t r = 0; r < LL_LANES; r++) {
        const uint32_t *panel = class_at(from, from->weight, c[r] / LL_WORD_LANES * LL_WORD_LANES);
        for (ptrdiff_t q = p; q < p + count; q++) {
            if (from->packed) {
                uint32_t word = panel[q / 2 * LL_WORD_LANES + c[r] % LL_WORD_LANES];
                out[q - p][r] = ll_widen(from->type, q % 2 ? word >> 16 : word & 0xffff);
            } else
                out[q - p][r] = read_weight(from, from->weight, c[r] * from->w_row + q * from->w_col);
        }
    }
}

static vec narrow_pairs(const ll_product *from, const real *const *x, const int64_t *c)
{
    vec total = vset(0), xp[LL_LANES];
    real wp[LL_LANES][LL_LANES];

    for (ptrdiff_t pc = 0; pc < from->k; pc += LL_KC) {
        const ptrdiff_t end = least(pc + LL_KC, from->k);
        vec sum = vset(0);
        for (ptrdiff_t p = pc, count; p < end; p += count) {
            count = least(LL_LANES, end - p);
            transpose_features(x, p, count, 1, xp);
            narrow_features(from, c, p, count, wp);
            for (ptrdiff_t q = 0; q < count; q++)
                sum = vfma(xp[q], vload(wp[q]), sum);
        }
        total = pc ? vadd(total, sum) : sum;
    }
    return total;
}

/* And with rows of bfloat16, with the bias. */
static void bf16_target_logits(const ll_product *from, const uint16_t *const *x, const int64_t *c,
                               const real *bias, real *logit)
{
    pair_step xp, wp;

    memset(logit, 0, LL_LANES * sizeof(real));
    for (ptrdiff_t p = 0; p < from->k; p += LL_STEP_K) {
        const ptrdiff_t count = least(LL_STEP_K, from->k - p);
        memset(xp, 0, sizeof xp);
        memset(wp, 0, sizeof wp);
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            for (ptrdiff_t q = 0; q < count; q++)
                xp[q][r] = ll_widen(LL_BFLOAT16, x[r][p + q]);
        narrow_features(from, c, p, count, wp);
        add_step((const real(*)[LL_LANES])xp, (const real(*)[LL_LANES])wp, logit);
    }
    add_pair_bias(logit, bias);
}
#endif

/* Products of rows i, ... with a class c each, and the bias. */
static void pair_products(const ll_job *job, ptrdiff_t i, const int64_t *c, const real *bias,
                          real *logit)
{
    const ll_product *p = &job->product;
    const real *x[LL_LANES], *w[LL_LANES];

    if (p->x_start) {
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            logit[r] = entry_product(p, least(i + r, job->rows - 1), (ptrdiff_t)c[r]) + bias[r];
        return;
    }
#if LL_REAL == 32
    if (p->bf16) {
        const uint16_t *rows[LL_LANES];
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            rows[r] = (const uint16_t *)p->x + least(i + r, job->rows - 1) * p->x_row;
        bf16_target_logits(p, rows, c, bias, logit);
        return;
    }
#endif
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        x[r] = (const real *)p->x + least(i + r, job->rows - 1) * p->x_row;
#if LL_REAL == 32
    if (is_narrow(p)) {
        vstore(logit, vadd(narrow_pairs(p, x, c), vload(bias)));
        return;
    }
#endif
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        w[r] = p->packed ? (const real *)class_at(p, p->weight, c[r] / LL_LANES * LL_LANES)
                               + c[r] % LL_LANES
                         : (const real *)class_at(p, p->weight, c[r]);
    vstore(logit, vadd(dot_pairs(p->k, x, w, p->packed ? LL_LANES : p->w_col), vload(bias)));
}

/* Logits of one target a row, before the pass that compares others with them; `first` is 0 and x is
 * not packed. Of a row without a target, any. */
static void target_logits(const ll_job *job)
{
    const ll_product *p = &job->product;
    const ll_question *q = &job->question;
    const real *bias = p->bias, *logits = p->logits;

    for (ptrdiff_t i = 0; i < job->rows; i += LL_LANES) {
        int64_t c[LL_LANES];
        real logit[LL_LANES], shift[LL_LANES], temperature[LL_LANES];

        for (ptrdiff_t r = 0; r < LL_LANES; r++) {
            const ptrdiff_t row = least(i + r, job->rows - 1);
            const int64_t target = q->targets[row * q->n_targets];

            c[r] = target < 0 ? 0 : target;
            shift[r] = bias ? bias[c[r]] : 0;
            temperature[r] = (real)temperature_of(p, row);
            logit[r] = logits ? logits[row * p->z_row + c[r] * p->z_col] : 0;
        }
        if (!logits)
            pair_products(job, i, c, shift, logit);
        transform(p, vload(temperature), logit, 1);
        for (ptrdiff_t r = 0; r < least(LL_LANES, job->rows - i); r++)
            ((real *)job->output.state.target_logit)[(i + r) * q->n_targets] = logit[r];
    }
}
