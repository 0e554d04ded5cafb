/* The epilogue: a finished tile of logits goes into the row state (online softmax).
 *
 * A row remembers its largest logit so far and, over all the *other* classes, rest = the sum of
 * exp(z - max). Holding the largest class out keeps every digit of a loss near zero:
 *     -log p[c] = (max - z[c]) + log1p(rest),  two numbers that are never negative.
 * When a block brings a new largest logit, the old sum is scaled and the old largest class joins
 * it: rest -> (1 + rest) * exp(old max - new max).
 *
 * With e = exp(z - max) the moment is the sum of e * (z - max), for the entropy
 *     log(1 + rest) - moment / (1 + rest).
 */

/* Logits of one row in one block, ready for the epilogue: whole vectors, -inf behind the last
 * class. */
typedef struct {
    real *z;
    ptrdiff_t vecs, width; /* in vectors; in classes */
    int64_t first;         /* class of z[0] */
} segment;

static inline real *field(const ll_state *state, int which)
{
    return (real *)state->values + which * state->stride;
}

/* The ranked target's logit is found before the pass, not in it. */
static inline int is_ranked_ahead(const ll_job *job) { return job->rank && job->n > LL_BLOCK; }

/* 0 for a finite max; NaN for +inf, for a NaN, and for a row in which no class is possible. */
static inline vec undefined(vec max) { return vsub(max, max); }

static const real lane_index[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

/* a * b, and 0 where a is 0 though b is infinite. */
static inline vec vmul_zero(vec a, vec b)
{
    return vselect(veq(a, vset(0)), vset(0), vmul(a, b));
}

/* a is the new largest rather than b: larger, or the first NaN. */
static inline int exceeds(real a, real b) { return a > b || (a != a && b == b); }

static inline real vexp_one(real a)
{
    real e[LL_LANES];
    vstore(e, vexp_nonpositive(vset(a)));
    return e[0];
}

static int has_nan(const segment *s)
{
    for (ptrdiff_t v = 0; v < s->vecs; v++)
        if (mbits(vunordered(vload(s->z + v * LL_LANES), vload(s->z))))
            return 1;
    return 0;
}

/* The largest logit, NaN where there is one. A NaN makes the sum one, and so may infinities: the
 * sum costs less than a look at each logit. */
LL_TEMPLATE real largest(const segment *s)
{
    vec even = vload(s->z), odd = even, sum = even;

    for (ptrdiff_t v = 1; v < s->vecs; v += 2) {
        vec a = vload(s->z + v * LL_LANES);
        vec b = vload(s->z + least(v + 1, s->vecs - 1) * LL_LANES);
        sum = vadd(sum, vadd(a, b));
        odd = vmax(odd, a);
        even = vmax(even, b);
    }
    if (mbits(vunordered(sum, sum)) && has_nan(s))
        return (real)NAN;
    return vtop(vmax(even, odd));
}

/* Where `value` is, counted from the segment's first class: the first of equals. */
LL_TEMPLATE ptrdiff_t position(const segment *s, real value)
{
    const vec wanted = vset(value);
    unsigned found = 0;

    for (ptrdiff_t c = 0;; c += LL_LANES) {
        vec z = vload(s->z + c);
        found = mbits(value == value ? veq(z, wanted) : vunordered(z, z));
        if (found)
            return c + lowest_bit(found);
    }
}

/* Sum of exp(z - max) over all classes but the one at `held` (-1 for none), and with `moment` of
 * exp(z - max) * (z - max): lane by lane in ascending order of classes, then over the lanes. exp
 * has vanished long before `floor`, which keeps -inf * 0 out of the moment. */
LL_TEMPLATE real sum_exp(const segment *s, real max, ptrdiff_t held, real *moment)
{
    const vec floor = vset(R(-1e4)), m = vset(max);
    vec sum = vset(0), product = vset(0);
    ptrdiff_t held_vec = held < 0 ? -1 : held / LL_LANES;

    for (ptrdiff_t v = 0; v < s->vecs; v++) {
        vec d = vsub(vload(s->z + v * LL_LANES), m), e;
        if (moment)
            d = vmax(floor, d);
        e = vexp_nonpositive(d);
        if (v == held_vec)
            e = vselect(veq(vload(lane_index), vset((real)(held % LL_LANES))), vset(0), e);
        sum = vadd(sum, e);
        if (moment)
            product = vfma(e, d, product);
    }
    if (moment)
        *moment = vsum(product);
    return vsum(sum);
}

/* The moment about a larger max: every z - max shrinks by the same `shift` <= 0, every e by
 * `scale`; the old largest class had e = 1. */
static inline real shifted_moment(real moment, real rest, real shift, real scale)
{
    return scale == 0 ? 0 : scale * (moment + shift * (1 + rest));
}

/* Fold a segment into max, argmax, rest, moment of row i. */
LL_TEMPLATE void fold_softmax(const segment *s, real top, ptrdiff_t i, int sums, int entropy,
                                const ll_state *state)
{
    real *max = (real *)state->values + LL_MAX * state->stride + i;
    real *rest = (real *)state->values + LL_REST * state->stride + i;
    real *moment = (real *)state->values + LL_MOMENT * state->stride + i;
    real add_moment = 0;
    ptrdiff_t held = -1;

    if (exceeds(top, *max)) {
        held = position(s, top);
        state->ints[LL_ARGMAX * state->stride + i] = s->first + held;
        if (sums && *max != -LL_INF) {
            real shift = *max - top, scale = vexp_one(shift);
            if (entropy)
                *moment = shifted_moment(*moment, *rest, shift, scale);
            *rest = (1 + *rest) * scale;
        }
        *max = top;
    } else if (top == -LL_INF)
        return; /* nothing but impossible classes */
    if (!sums)
        return;
    if (entropy) {
        *rest += sum_exp(s, *max, held, &add_moment);
        *moment += add_moment;
    } else
        *rest += sum_exp(s, *max, held, NULL);
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

static inline vec class_weights(const ll_job *job, const segment *s, ptrdiff_t v)
{
    return vload((const real *)job->class_weight + s->first + v * LL_LANES);
}

/* Target probabilities of row i, from the segment's first class on. */
static inline const real *target_probs(const ll_job *job, ptrdiff_t i, const segment *s)
{
    return (const real *)job->probs + i * job->p_row + (s->first - job->first) * job->p_col;
}

/* For the target distribution t of row i. */
static void fold_probs(const ll_job *job, const segment *s, ptrdiff_t i, real old, real max,
                       real *sum, real *gap)
{
    const real *t = target_probs(job, i, s);
    gap_sums sums = { vset(0), vset(0) };

    for (ptrdiff_t v = 0; v < s->vecs; v++) {
        ptrdiff_t c = v * LL_LANES;
        vec tc = gather(t + c * job->p_col, job->p_col, s->width - c);
        if (job->class_weight)
            tc = vmul(class_weights(job, s, v), tc);
        add_gap(&sums, tc, vload(s->z + c), vset(max));
    }
    fold_gap(&sums, old, max, sum, gap);
}

/* First entry of row i of the sparse target distribution whose class is not before `c`. */
static inline int64_t sparse_from(const ll_job *job, ptrdiff_t i, int64_t c)
{
    int64_t low = job->sparse_start[i], high = job->sparse_start[i + 1];

    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (job->sparse_class[middle] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The entry's probability times the weight of its class. */
static inline real sparse_weight(const ll_job *job, int64_t entry)
{
    real t = ((const real *)job->sparse_prob)[entry];
    return job->class_weight ? ((const real *)job->class_weight)[job->sparse_class[entry]] * t : t;
}

/* fold_probs with t given where it is not 0: the same bits, as each class goes to its own lane. */
static void fold_sparse(const ll_job *job, const segment *s, ptrdiff_t i, real old, real max,
                        real *sum, real *gap)
{
    real sum_part[LL_LANES] = { 0 }, gap_part[LL_LANES] = { 0 };
    int64_t end = job->sparse_start[i + 1];

    for (int64_t e = sparse_from(job, i, s->first); e < end; e++) {
        ptrdiff_t c = (ptrdiff_t)(job->sparse_class[e] - s->first);
        real t = sparse_weight(job, e);
        if (c >= s->width)
            break;
        sum_part[c % LL_LANES] += t;
        if (t != 0)
            gap_part[c % LL_LANES] += t * (s->z[c] == -LL_INF ? LL_INF : max - s->z[c]);
    }
    gap_sums sums = { vload(sum_part), vload(gap_part) };
    fold_gap(&sums, old, max, sum, gap);
}

/* For the class weights alone. */
static void fold_smooth(const ll_job *job, const segment *s, real old, real max, real *sum,
                        real *gap)
{
    gap_sums sums = { vset(0), vset(0) };

    for (ptrdiff_t v = 0; v < s->vecs; v++)
        add_gap(&sums, class_weights(job, s, v), vload(s->z + v * LL_LANES), vset(max));
    fold_gap(&sums, old, max, sum, gap);
}

/* Everything that is a sum over target distributions. */
static void fold_targets(const ll_job *job, const ll_state *state, const segment *s, ptrdiff_t i,
                         real old)
{
    real *values = (real *)state->values + i, max = values[LL_MAX * state->stride];
    real *sum = values + LL_PROB_SUM * state->stride, *gap = values + LL_PROB_GAP * state->stride;

    if (job->probs)
        fold_probs(job, s, i, old, max, sum, gap);
    else if (job->soft)
        fold_sparse(job, s, i, old, max, sum, gap);
    if (job->smooth)
        fold_smooth(job, s, old, max, values + LL_SMOOTH_SUM * state->stride,
                    values + LL_SMOOTH_GAP * state->stride);
}

/* What exp(z - max) is divided by, or with `log` its logarithm; NaN where a row has no softmax. */
static inline vec row_norm(const int log, vec max, vec rest)
{
    return vadd(log ? vlog1p(rest) : vadd(vset(1), rest), undefined(max));
}

/* Logits of one row to probabilities, or with `log` to their logarithms. */
LL_TEMPLATE void normalise_row(const int log, ptrdiff_t n, real *z, real max, real norm)
{
    const ptrdiff_t whole = n - n % LL_LANES;
    const vec m = vset(max), by = vset(norm);
    real part[LL_LANES] = { 0 };

    for (ptrdiff_t c = 0; c < n; c += LL_LANES) {
        real *at = c < whole ? z + c : memcpy(part, z + c, (size_t)(n - c) * sizeof(real));
        vec d = vsub(vload(at), m);
        vstore(at, log ? vsub(d, by) : vdiv(vexp_nonpositive(d), by));
    }
    memcpy(z + whole, part, (size_t)(n - whole) * sizeof(real));
}

/* Rows i, ... of `out`, whose state has met all classes. */
static void normalise_rows(const ll_job *job, ptrdiff_t i, ptrdiff_t rows)
{
    const int log = job->write == LL_LOG_PROBA;
    const real *max = field(&job->state, LL_MAX) + i, *rest = field(&job->state, LL_REST) + i;
    real *z = (real *)job->out + i * job->out_row, norms[LL_LANES];

    for (ptrdiff_t r = 0; r < rows; r++, z += job->out_row) {
        if (r % LL_LANES == 0) { /* those of the next rows too */
            ptrdiff_t count = least(LL_LANES, rows - r);
            vstore(norms, row_norm(log, load_part(max + r, count), load_part(rest + r, count)));
        }
        if (log)
            normalise_row(1, job->n, z, max[r], norms[r % LL_LANES]);
        else
            normalise_row(0, job->n, z, max[r], norms[r % LL_LANES]);
    }
}

/* So few classes that a row is never seen but in one vector: its probabilities are written at once,
 * not its logits first. */
static inline int is_written_once(const ll_job *job)
{
    return job->write != LL_LOGITS && job->n <= LL_LANES;
}

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

static inline int is_transformed(const ll_job *job)
{
    return job->softcap > 0 || job->temperature != 1;
}

/* Softcap and temperature on `count` vectors. A class that cannot happen stays so through the cap. */
static void transform(const ll_job *job, real *z, ptrdiff_t count)
{
    const vec cap = vset((real)job->softcap), t = vset((real)job->temperature);
    const vec impossible = vset(-LL_INF);

    for (ptrdiff_t v = 0; v < count; v++, z += LL_LANES) {
        vec a = vload(z);
        if (job->softcap > 0)
            a = vselect(veq(a, impossible), a, vmul(cap, vtanh(vdiv(a, cap))));
        if (job->temperature != 1)
            a = vdiv(a, t);
        vstore(z, a);
    }
}
