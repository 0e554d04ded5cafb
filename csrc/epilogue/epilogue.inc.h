/* The epilogue of one row: all that was asked, from one segment of its logits. */

/* The best of so few classes of row i that they are one segment, which its state has met. */
static void best_at_once(const ll_job *job, const ll_state *state, ptrdiff_t i, const segment *s)
{
    const ptrdiff_t top = job->question.top;
    const real max = field(state, LL_MAX)[i];
    real *logit = (real *)job->output.state.top_logit + i * top, log_norm = 0;
    int64_t *index = job->output.state.top_index + i * top;
    const ll_excluded out = ll_excluded_of(&job->question.exclude, i);

    for (ptrdiff_t j = 0; j < top; j++) {
        logit[j] = (real)NAN;
        index[j] = -1;
    }
    offer_block(s->z, s->width, s->first, &out, logit, index, top);
    if (job->output.state.top_log_prob)
        log_norm = first_lane(row_norm(1, vset(max), vset(field(state, LL_REST)[i])));
    finish_best(job, i, max, log_norm);
}

/* Logits of row i into `out`. To write to memory is to wait for it, unless it has been asked for: so
 * many rows later it is here. */
#define LL_ROWS_AHEAD 8
static void write_logits(const ll_job *job, ptrdiff_t i, const segment *s)
{
    const ptrdiff_t row = job->output.out_row;
    real *out = (real *)job->output.out + i * row + s->first;

    for (ptrdiff_t c = 0; i + LL_ROWS_AHEAD < job->rows && c < s->width; c += LL_LANES)
        prefetch_to_l2(out + LL_ROWS_AHEAD * row + c);
    memcpy(out, s->z, (size_t)s->width * sizeof(real));
}

/* Everything that was asked about row i, from one segment of it. */
LL_TEMPLATE void epilogue(const ll_job *job, const ll_state *state, ptrdiff_t i, const segment *s)
{
    const ll_question *q = &job->question;
    const ll_output *output = &job->output;
    real *values = (real *)state->values + i;
    real top = largest(s), old = values[LL_MAX * state->stride];

    for (ptrdiff_t j = is_ranked_ahead(job); j < q->n_targets; j++) {
        int64_t c = q->targets[i * q->n_targets + j] - s->first;
        if (c >= 0 && c < s->width)
            ((real *)output->state.target_logit)[i * q->n_targets + j] = s->z[c];
    }
    if (q->rank) {
        int64_t target = q->targets[i * q->n_targets];
        if (target >= 0)
            state->ints[LL_RANK * state->stride + i] +=
                count_before(s, ((real *)output->state.target_logit)[i * q->n_targets], target);
    }
    if (q->top && !is_met_at_once(job->n)) {
        real *logit = (real *)output->state.top_logit + i * q->top;
        int64_t *index = output->state.top_index + i * q->top;
        const ll_excluded out = ll_excluded_of(&q->exclude, i);
        if (can_fill(s->width, top, index, q->top))
            fill_heap(s->z, s->width, s->first, &out, logit, index, q->top);
        else if (!(top <= logit[0]))
            offer_block(s->z, s->width, s->first, &out, logit, index, q->top);
    }
    if (output->out)
        write_logits(job, i, s);
    fold_softmax(s, top, i, q, state);
    if (q->top && is_met_at_once(job->n))
        best_at_once(job, state, i, s);
    if (output->out && is_written_once(output, job->n))
        normalise_rows(output, job->n, i, 1);
    if (q->fields & (LL_FIELD(PROB_SUM) | LL_FIELD(SMOOTH_SUM)))
        fold_targets(job, state, s, i, old);
}
