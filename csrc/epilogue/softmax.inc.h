/* The epilogue: a finished tile of logits goes into the row state (online softmax).
 *
 * A row remembers its largest logit so far and, over all the *other* classes, rest = the sum of
 * exp(z - max). Holding the largest class out keeps every digit of a loss near zero:
 *     -log p[c] = (max - z[c]) + log1p(rest),  two numbers that are never negative.
 * When a block brings a new largest logit, the old sum is scaled and the old largest class joins
 * it: rest -> (1 + rest) * exp(old max - new max).
 */

/* Logits of one row in one block, ready for the epilogue: whole vectors, -inf behind the last
 * class. */
typedef struct {
    real *z;
    ptrdiff_t vecs, width; /* in vectors; in classes */
    int64_t first;         /* class of z[0] */
} segment;

static inline int asks(const ll_question *q, int which) { return (q->fields & 1u << which) != 0; }

static inline real *field(const ll_state *state, int which)
{
    return (real *)state->values + which * state->stride;
}

/* 0 for a finite max; NaN for +inf, for a NaN, and for a row in which no class is possible. */
static inline vec undefined(vec max) { return vsub(max, max); }

/* a is the new largest rather than b: larger, or the first NaN. */
static inline int exceeds(real a, real b) { return a > b || (a != a && b == b); }

static inline real first_lane(vec a)
{
    real lane[LL_LANES];
    vstore(lane, a);
    return lane[0];
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

/* Sum of exp(z - max) over all classes but the one at `held` (-1 for none), and of the terms of the
 * first `count` statistics: lane by lane in ascending order of classes, then over the lanes. exp has
 * vanished long before `floor`, which keeps -inf * 0 out of the terms. */
LL_TEMPLATE real sum_exp(const segment *s, real max, ptrdiff_t held, const int count,
                          real *terms)
{
    const vec floor = vset(R(-1e4)), m = vset(max);
    vec sum = vset(0), term[LL_VALUES];
    ptrdiff_t held_vec = held < 0 ? -1 : held / LL_LANES;

    LL_EACH_STATISTIC(which, count)
        term[which] = vset(0);
    for (ptrdiff_t v = 0; v < s->vecs; v++) {
        vec d = vsub(vload(s->z + v * LL_LANES), m), e;
        if (count)
            d = vmax(floor, d);
        e = vexp_nonpositive(d);
        if (v == held_vec)
            e = vselect(veq(vload(lane_index), vset((real)(held % LL_LANES))), vset(0), e);
        sum = vadd(sum, e);
        LL_EACH_STATISTIC(which, count)
            term[which] = statistic_add(which, term[which], e, d);
    }
    LL_EACH_STATISTIC(which, count)
        terms[which] = vsum(term[which]);
    return vsum(sum);
}

/* The sums of a segment, beside those of row i, whose max is that of both. */
LL_TEMPLATE void add_sums(const segment *s, ptrdiff_t i, ptrdiff_t held, const ll_state *state,
                          const int count)
{
    real terms[LL_VALUES];

    field(state, LL_REST)[i] += sum_exp(s, field(state, LL_MAX)[i], held, count, terms);
    LL_EACH_STATISTIC(which, count)
        field(state, which)[i] += terms[which];
}

/* Fold a segment into max, argmax, rest and statistics of row i. */
LL_TEMPLATE void fold_softmax(const segment *s, real top, ptrdiff_t i, const ll_question *q,
                              const ll_state *state)
{
    const int sums = asks(q, LL_REST);
    real *max = field(state, LL_MAX) + i, *rest = field(state, LL_REST) + i;
    ptrdiff_t held = -1;

    if (exceeds(top, *max)) {
        held = position(s, top);
        state->ints[LL_ARGMAX * state->stride + i] = s->first + held;
        if (sums && *max != -LL_INF) {
            const real all = 1 + *rest;
            const vec shift = vset(*max - top), scale = vexp_nonpositive(shift);
            LL_EACH_STATISTIC(which, LL_N_STATISTICS)
                if (asks(q, which)) {
                    real *sum = field(state, which) + i;
                    vec before = vset(which > LL_FIRST_STATISTIC ? sum[-state->stride] : 0);
                    vec moved = statistic_move(which, vset(*sum), before, vset(all), shift, scale, 0);
                    *sum = first_lane(moved);
                }
            *rest = all * first_lane(scale);
        }
        *max = top;
    } else if (top == -LL_INF)
        return; /* nothing but impossible classes */
    if (!sums)
        return;
    if (!asks(q, LL_MOMENT))
        add_sums(s, i, held, state, 0);
    else if (!asks(q, LL_SECOND))
        add_sums(s, i, held, state, 1);
    else
        add_sums(s, i, held, state, 2);
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
static void normalise_rows(const ll_output *output, ptrdiff_t n, ptrdiff_t i, ptrdiff_t rows)
{
    const int log = output->write == LL_LOG_PROBA;
    const real *max = field(&output->state, LL_MAX) + i, *rest = field(&output->state, LL_REST) + i;
    real *z = (real *)output->out + i * output->out_row, norms[LL_LANES];

    for (ptrdiff_t r = 0; r < rows; r++, z += output->out_row) {
        if (r % LL_LANES == 0) { /* those of the next rows too */
            ptrdiff_t count = least(LL_LANES, rows - r);
            vstore(norms, row_norm(log, load_part(max + r, count), load_part(rest + r, count)));
        }
        if (log)
            normalise_row(1, n, z, max[r], norms[r % LL_LANES]);
        else
            normalise_row(0, n, z, max[r], norms[r % LL_LANES]);
    }
}

/* So few classes that a row is never seen but in one segment: its probabilities are written at once,
 * not its logits first. */
static inline int is_written_once(const ll_output *output, ptrdiff_t n)
{
    return output->write != LL_LOGITS && n <= LL_BLOCK;
}
