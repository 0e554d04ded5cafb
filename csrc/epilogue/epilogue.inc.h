/* The epilogue of one row: all that was asked, from one segment of its logits. */

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
    if (q->top) {
        real *logit = (real *)output->state.top_logit + i * q->top;
        if (!(top <= logit[0]))
            offer_block(s->z, s->width, s->first, logit, output->state.top_index + i * q->top,
                        q->top);
    }
    if (output->out)
        memcpy((real *)output->out + i * output->out_row + s->first, s->z,
               (size_t)s->width * sizeof(real));
    fold_softmax(s, top, i, q, state);
    if (output->out && is_written_once(output, job->n))
        normalise_rows(output, job->n, i, 1);
    if (q->fields & (LL_FIELD(PROB_SUM) | LL_FIELD(SMOOTH_SUM)))
        fold_targets(job, state, s, i, old);
}
