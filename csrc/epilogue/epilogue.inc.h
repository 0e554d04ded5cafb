/* The epilogue of one row: all that was asked, from one segment of its logits. */

/* Everything that was asked about row i, from one segment of it. */
LL_TEMPLATE void epilogue(const ll_job *job, const ll_state *state, ptrdiff_t i,
                            const segment *s)
{
    real *values = (real *)state->values + i;
    real top = largest(s), old = values[LL_MAX * state->stride];

    for (ptrdiff_t j = is_ranked_ahead(job); j < job->n_targets; j++) {
        int64_t c = job->targets[i * job->n_targets + j] - s->first;
        if (c >= 0 && c < s->width)
            ((real *)job->state.target_logit)[i * job->n_targets + j] = s->z[c];
    }
    if (job->rank) {
        int64_t target = job->targets[i * job->n_targets];
        if (target >= 0)
            state->ints[LL_RANK * state->stride + i] +=
                count_before(s, ((real *)job->state.target_logit)[i * job->n_targets], target);
    }
    if (job->top) {
        real *logit = (real *)job->state.top_logit + i * job->top;
        if (!(top <= logit[0]))
            offer_block(s->z, s->width, s->first, logit, job->state.top_index + i * job->top,
                        job->top);
    }
    if (job->out)
        memcpy((real *)job->out + i * job->out_row + s->first, s->z,
               (size_t)s->width * sizeof(real));
    fold_softmax(s, top, i, job->sums, job->entropy, state);
    if (job->out && is_written_once(job))
        normalise_rows(job, i, 1);
    if (job->soft || job->smooth)
        fold_targets(job, state, s, i, old);
}
