/* From the row state to what the caller asked for, and functions of arrays. */

/* Loss of each target, or NULL; NaN as the logit of none. */
LL_TEMPLATE void finish_targets(const ll_job *job, const ptrdiff_t per_row, real *loss)
{
    const ll_output *output = &job->output;
    const real *max = field(&output->state, LL_MAX), *norm = field(&output->state, LL_REST);
    const int64_t *target = job->question.targets;
    real *zt = output->state.target_logit;

    for (ptrdiff_t i = 0; loss && i < job->rows; i++)
        for (ptrdiff_t j = i * per_row; j < (i + 1) * per_row; j++)
            loss[j] = target[j] < 0 ? 0 : (max[i] - zt[j]) + norm[i];
    for (ptrdiff_t j = 0; j < job->rows * per_row; j++)
        zt[j] = target[j] < 0 ? (real)NAN : zt[j];
}

static void finish(const ll_job *job, void *target_loss)
{
    const ll_question *q = &job->question;
    const ll_state *state = &job->output.state;
    real *max = field(state, LL_MAX), *norm = field(state, LL_REST);

    narrow_state(job);
    finish_excluded(job);
    for (ptrdiff_t i = 0; asks(q, LL_REST) && i < job->rows; i += LL_LANES) {
        vec m = vload(max + i), rest = vload(norm + i);
        vec log_norm = vadd(vlog1p(rest), undefined(m));

        vstore(norm + i, log_norm);
        vstore(field(state, LL_OTHERS) + i, rest);
        for (int which = LL_PROB_SUM; which <= LL_SMOOTH_SUM; which += 2)
            if (uses(job, which)) {
                vec sum = vload(field(state, which) + i);
                vec gap = vload(field(state, which + 1) + i);
                vstore(field(state, which + 1) + i, vfma(sum, log_norm, gap));
            }
        LL_EACH_STATISTIC(which, LL_N_STATISTICS)
            if (asks(q, which)) {
                real *sum = field(state, which) + i;
                vstore(sum, statistic_finish(which, vload(sum), rest, log_norm));
            }
    }
    if (q->n_targets == 1)
        finish_targets(job, 1, target_loss);
    else if (q->n_targets)
        finish_targets(job, q->n_targets, target_loss);
    for (ptrdiff_t i = 0; q->rank && i < job->rows; i++)
        if (q->targets[i * q->n_targets] < 0 || !isfinite(max[i])) /* none without a softmax */
            state->ints[LL_RANK * state->stride + i] = -1;
}

/* The state is that of finish. */
static void sort_top(const ll_job *job)
{
    const ll_state *state = &job->output.state;
    const real *max = field(state, LL_MAX), *log_norm = field(state, LL_REST);
    const int normalised = state->top_log_prob != NULL;

    for (ptrdiff_t i = 0; !is_met_at_once(job->n) && i < job->rows; i++)
        finish_best(job, i, normalised ? max[i] : 0, normalised ? log_norm[i] : 0);
}

static void normalise(const ll_job *job)
{
    if (is_written_once(&job->output, job->n))
        return;
    narrow_state(job);
    normalise_rows(&job->output, job->n, 0, job->rows);
}

static void map_function(int function, ptrdiff_t count, const void *x_, void *y_)
{
    const real *x = x_;
    real *y = y_, part[LL_LANES];

    for (ptrdiff_t i = 0; i < count; i += LL_LANES) {
        ptrdiff_t left = least(LL_LANES, count - i);
        vec a = load_part(x + i, left);
        vstore(part, function == LL_EXP ? vexp(a) : function == LL_LOG ? vlog(a)
                   : function == LL_LOG1P ? vlog1p(a) : vtanh(a));
        memcpy(y + i, part, (size_t)left * sizeof(real));
    }
}

/* Terms with t = 0 add nothing, whatever p is. */
static void nll_rows(ptrdiff_t rows, ptrdiff_t n, const void *p_, ptrdiff_t p_row, ptrdiff_t p_col,
                     const void *t_, ptrdiff_t t_row, ptrdiff_t t_col, void *loss)
{
    for (ptrdiff_t i = 0; i < rows; i++) {
        const real *p = (const real *)p_ + i * p_row, *t = (const real *)t_ + i * t_row;
        vec sum = vset(0);
        for (ptrdiff_t c = 0; c < n; c += LL_LANES) {
            real pc[LL_LANES] = { 0 }, tc[LL_LANES] = { 0 };
            for (ptrdiff_t j = 0; j < least(LL_LANES, n - c); j++) {
                pc[j] = p[(c + j) * p_col];
                tc[j] = t[(c + j) * t_col];
            }
            sum = vsub(sum, vmul_zero(vload(tc), vlog(vload(pc))));
        }
        ((real *)loss)[i] = vsum(sum);
    }
}
