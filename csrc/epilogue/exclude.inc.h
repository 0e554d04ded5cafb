/* Excluded classes: their logits become -inf in a finished tile, and everything that is a sum or a
 * maximum follows. What tells them from classes that cannot happen is seen to by the best classes
 * (topk.inc.h), and in the end. */

static inline int excludes(const ll_job *job) { return job->question.exclude.start != NULL; }

/* All rows exclude the same classes. */
static inline int excludes_alike(const ll_job *job)
{
    return excludes(job) && !job->question.exclude.step;
}

/* Those of row i among classes [first, first + width). */
static inline ll_excluded excluded_within(const ll_job *job, ptrdiff_t i, int64_t first,
                                          ptrdiff_t width)
{
    const ll_excluded row = ll_excluded_of(&job->question.exclude, i);
    const ptrdiff_t begin = ll_excluded_before(&row, first), left = row.count - begin;
    ll_excluded part = { row.class ? row.class + begin : NULL, 0 };

    while (part.count < left && part.class[part.count] < first + width)
        part.count++;
    return part;
}

/* Those of the block of classes `first`, ... that all rows exclude; if they are many, 1 for each of
 * them and 0 for others. */
static void mark_excluded(const ll_job *job, int64_t first, ptrdiff_t width, workspace *w)
{
    w->alike = excluded_within(job, 0, first, width);
    if (w->alike.count <= LL_LANES)
        return;
    memset(w->marks, 0, LL_BLOCK * sizeof(real));
    for (ptrdiff_t e = 0; e < w->alike.count; e++)
        w->marks[w->alike.class[e] - first] = 1;
}

/* Logits of row i. */
static void exclude_row(const ll_job *job, ptrdiff_t i, const segment *s, const workspace *w)
{
    const int alike = excludes_alike(job);

    if (alike && w->alike.count > LL_LANES) {
        const real *marks = w->marks;
        for (ptrdiff_t c = 0; c < s->vecs * LL_LANES; c += LL_LANES)
            vstore(s->z + c, vselect(veq(vload(marks + c), vset(0)), vload(s->z + c),
                                     vset(-LL_INF)));
        return;
    }
    const ll_excluded out = alike ? w->alike : excluded_within(job, i, s->first, s->width);
    for (ptrdiff_t e = 0; e < out.count; e++)
        s->z[out.class[e] - s->first] = -LL_INF;
}

/* Logits of rows i, ..., `count` of them, that lie class by class. */
static void exclude_by_rows(const ll_job *job, ptrdiff_t i, ptrdiff_t count, int64_t first,
                            ptrdiff_t width, real *z)
{
    if (excludes_alike(job)) {
        const ll_excluded out = excluded_within(job, 0, first, width);
        for (ptrdiff_t e = 0; e < out.count; e++)
            vstore(z + (out.class[e] - first) * LL_LANES, vset(-LL_INF));
        return;
    }
    for (ptrdiff_t r = 0; r < count; r++) {
        const ll_excluded out = excluded_within(job, i + r, first, width);
        for (ptrdiff_t e = 0; e < out.count; e++)
            z[(out.class[e] - first) * LL_LANES + r] = -LL_INF;
    }
}

/* Class weights of a segment of row i, those of excluded classes 0, in `left`. */
static void weights_left(const ll_job *job, ptrdiff_t i, const segment *s, real *left)
{
    const ll_excluded out = excluded_within(job, i, s->first, s->width);

    memcpy(left, (const real *)job->question.class_weight + s->first,
           (size_t)(s->vecs * LL_LANES) * sizeof(real));
    for (ptrdiff_t e = 0; e < out.count; e++)
        left[out.class[e] - s->first] = 0;
}

/* What a maximum of -inf does not tell, and where excluded targets stand: behind all that are left. */
static void finish_excluded(const ll_job *job)
{
    const ll_question *q = &job->question;
    const ll_state *state = &job->output.state;
    const real *max = (const real *)state->values + LL_MAX * state->stride;
    int64_t *argmax = state->ints + LL_ARGMAX * state->stride;

    for (ptrdiff_t i = 0; excludes(job) && i < job->rows; i++) {
        const ll_excluded out = ll_excluded_of(&q->exclude, i);
        const int64_t *target = q->targets + i * q->n_targets;
        real *logit = (real *)state->target_logit + i * q->n_targets;

        if (max[i] == -LL_INF)
            argmax[i] = ll_first_left(&out, job->n);
        for (ptrdiff_t j = 0; j < q->n_targets; j++)
            if (target[j] >= 0 && ll_is_excluded(&out, target[j]))
                logit[j] = -LL_INF;
        if (q->rank && target[0] >= 0 && logit[0] == -LL_INF) {
            int64_t *rank = state->ints + LL_RANK * state->stride + i;
            if (ll_is_excluded(&out, target[0]))
                *rank = job->n - out.count;
            else
                *rank -= ll_excluded_before(&out, target[0]);
        }
    }
}
