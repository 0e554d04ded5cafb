/* What is asked of targets: the rank of one, and sums over target distributions. */

/* The ranked target's logit is found before the pass, not in it. */
static inline int is_ranked_ahead(const ll_job *job)
{
    return job->question.rank && job->n > LL_BLOCK;
}

/* Classes of the segment that rank before class `target` with logit `zt`. */
static inline int64_t count_before(const segment *s, real zt, int64_t target)
{
    vec count = vset(0), one = vset(1), zero = vset(0), t = vset(zt);
    ptrdiff_t before = target < s->first ? 0 : least((ptrdiff_t)(target - s->first), s->width);

    if (zt != zt) { /* only a NaN ranks before a NaN */
        int64_t nans = 0;
        for (ptrdiff_t c = 0; c < before; c++)
            nans += s->z[c] != s->z[c];
        return nans;
    }
    for (ptrdiff_t v = 0; v < s->vecs; v++) {
        vec z = vload(s->z + v * LL_LANES);
        mask earlier = vlt(vload(lane_index), vset((real)(before - v * LL_LANES)));
        count = vadd(count, vselect(earlier, vselect(vlt(z, t), zero, one),
                                    vselect(vle(z, t), zero, one)));
    }
    return (int64_t)vsum(count);
}

/* Sums over classes of weights t and of t * (max - z), lane by lane. A class with t = 0 adds
 * nothing, whatever its logit. */
typedef struct {
    vec sum, gap;
} gap_sums;

static inline void add_gap(gap_sums *sums, vec t, vec z, vec max)
{
    vec zero = vset(0), away = vselect(veq(z, vset(-LL_INF)), vset(LL_INF), vsub(max, z));

    sums->sum = vadd(sums->sum, t);
    sums->gap = vadd(sums->gap, vselect(veq(t, zero), zero, vmul(t, away)));
}

/* Put the sums of a segment to those of the row, whose max has gone from `old` to `max`. */
static inline void fold_gap(const gap_sums *sums, real old, real max, real *sum, real *gap)
{
    if (*sum > 0 && max != old)
        *gap += *sum * (max - old);
    *sum += vsum(sums->sum);
    *gap += vsum(sums->gap);
}

static inline vec class_weights(const ll_question *q, const segment *s, ptrdiff_t v)
{
    return vload((const real *)q->class_weight + s->first + v * LL_LANES);
}

/* Target probabilities of row i, from the segment's first class on. */
static inline const real *target_probs(const ll_job *job, ptrdiff_t i, const segment *s)
{
    const ll_question *q = &job->question;

    return (const real *)q->probs + i * q->p_row + (s->first - job->first) * q->p_col;
}

/* For the target distribution t of row i. */
static void fold_probs(const ll_job *job, const segment *s, ptrdiff_t i, real old, real max,
                       real *sum, real *gap)
{
    const ll_question *q = &job->question;
    const real *t = target_probs(job, i, s);
    gap_sums sums = { vset(0), vset(0) };

    for (ptrdiff_t v = 0; v < s->vecs; v++) {
        ptrdiff_t c = v * LL_LANES;
        vec tc = gather(t + c * q->p_col, q->p_col, s->width - c);
        if (q->class_weight)
            tc = vmul(class_weights(q, s, v), tc);
        add_gap(&sums, tc, vload(s->z + c), vset(max));
    }
    fold_gap(&sums, old, max, sum, gap);
}

/* First entry of row i of the sparse target distribution whose class is not before `c`. */
static inline int64_t sparse_from(const ll_question *q, ptrdiff_t i, int64_t c)
{
    int64_t low = q->sparse_start[i], high = q->sparse_start[i + 1];

    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (q->sparse_class[middle] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The entry's probability times the weight of its class. */
static inline real sparse_weight(const ll_question *q, int64_t entry)
{
    real t = ((const real *)q->sparse_prob)[entry];
    return q->class_weight ? ((const real *)q->class_weight)[q->sparse_class[entry]] * t : t;
}

/* fold_probs with t given where it is not 0: the same bits, as each class goes to its own lane. */
static void fold_sparse(const ll_question *q, const segment *s, ptrdiff_t i, real old, real max,
                        real *sum, real *gap)
{
    real sum_part[LL_LANES] = { 0 }, gap_part[LL_LANES] = { 0 };
    int64_t end = q->sparse_start[i + 1];

    for (int64_t e = sparse_from(q, i, s->first); e < end; e++) {
        ptrdiff_t c = (ptrdiff_t)(q->sparse_class[e] - s->first);
        real t = sparse_weight(q, e);
        if (c >= s->width)
            break;
        sum_part[c % LL_LANES] += t;
        if (t != 0)
            gap_part[c % LL_LANES] += t * (s->z[c] == -LL_INF ? LL_INF : max - s->z[c]);
    }
    gap_sums sums = { vload(sum_part), vload(gap_part) };
    fold_gap(&sums, old, max, sum, gap);
}

/* For the class weights alone, of classes that are left. */
static void fold_smooth(const ll_job *job, const segment *s, ptrdiff_t i, real old, real max,
                        real *sum, real *gap)
{
    const real *weight = (const real *)job->question.class_weight + s->first;
    gap_sums sums = { vset(0), vset(0) };
    real left[LL_BLOCK];

    if (excludes(job)) {
        weights_left(job, i, s, left);
        weight = left;
    }
    for (ptrdiff_t v = 0; v < s->vecs; v++)
        add_gap(&sums, vload(weight + v * LL_LANES), vload(s->z + v * LL_LANES), vset(max));
    fold_gap(&sums, old, max, sum, gap);
}

/* Everything that is a sum over target distributions. */
static void fold_targets(const ll_job *job, const ll_state *state, const segment *s, ptrdiff_t i,
                         real old)
{
    const ll_question *q = &job->question;
    real *values = (real *)state->values + i, max = values[LL_MAX * state->stride];
    real *sum = values + LL_PROB_SUM * state->stride, *gap = values + LL_PROB_GAP * state->stride;

    if (q->probs)
        fold_probs(job, s, i, old, max, sum, gap);
    else if (asks(q, LL_PROB_SUM))
        fold_sparse(q, s, i, old, max, sum, gap);
    if (asks(q, LL_SMOOTH_SUM))
        fold_smooth(job, s, i, old, max, values + LL_SMOOTH_SUM * state->stride,
                    values + LL_SMOOTH_GAP * state->stride);
}
