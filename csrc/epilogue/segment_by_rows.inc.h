/* The epilogue of LL_LANES rows whose logits lie class by class, so that lanes are rows: the same
 * operations on the same operands as row by row. z + c * LL_LANES is class c of the segment. */

/* Nothing is asked that fold_segment does not find. */
static inline int segment_goes_by_rows(const ll_job *job)
{
    const ll_question *q = &job->question;

    return !q->rank && !q->top && !(q->fields & (LL_FIELD(PROB_SUM) | LL_FIELD(SMOOTH_SUM)));
}

/* The largest logit of each row and where it is first. Returns 0 where a row has a NaN, no finite
 * largest logit, or a zero, whose sign depends on the order. */
static inline int top_of_segment(const real *z, ptrdiff_t width, vec *top, vec *at)
{
    const vec one = vset(1), zero = vset(0);
    vec best = vload(z), first = zero, sum = best, class = zero;

    for (ptrdiff_t c = 1; c < width; c++) {
        vec a = vload(z + c * LL_LANES);
        class = vadd(class, one);
        first = vselect(vlt(best, a), class, first);
        best = vmax(best, a);
        sum = vadd(sum, a);
    }
    *top = best;
    *at = first;
    return !mbits(mor(mor(vunordered(sum, sum), veq(best, zero)),
                      vunordered(undefined(best), best)));
}

/* Sum over the lanes of a row's vectors: the tree of vsum. */
static inline vec sum_of_lanes(vec *lane)
{
    for (ptrdiff_t step = LL_LANES / 2; step > 0; step /= 2)
        for (ptrdiff_t l = 0; l < step; l++)
            lane[l] = vadd(lane[l], lane[l + step]);
    return lane[0];
}

/* sum_exp of each row; with `keeps` exponentials take the place of logits. */
LL_TEMPLATE vec sum_exp_by_rows(real *z, ptrdiff_t width, vec max, vec held, const int keeps,
                                const int count, vec *terms)
{
    const vec floor = vset(R(-1e4)), zero = vset(0), one = vset(1);
    vec sum[LL_LANES], term[LL_VALUES][LL_LANES], class = zero;

    for (ptrdiff_t l = 0; l < LL_LANES; l++) {
        sum[l] = zero;
        LL_EACH_STATISTIC(which, count)
            term[which][l] = zero;
    }
    for (ptrdiff_t c = 0; c < width; c += LL_LANES)
        for (ptrdiff_t l = 0; l < least(LL_LANES, width - c); l++, z += LL_LANES) {
            vec d = vsub(vload(z), max), e;
            if (count)
                d = vmax(floor, d);
            e = vexp_nonpositive(d);
            if (keeps)
                vstore(z, e);
            e = vselect(veq(held, class), zero, e);
            class = vadd(class, one);
            sum[l] = vadd(sum[l], e);
            LL_EACH_STATISTIC(which, count)
                term[which][l] = statistic_add(which, term[which][l], e, d);
        }
    LL_EACH_STATISTIC(which, count)
        terms[which] = sum_of_lanes(term[which]);
    return sum_of_lanes(sum);
}

/* What lies class by class to `count` rows of `width` numbers. The last of them come first, in whole
 * vectors where those that follow cover what is too much. */
static void segment_to_rows(const real *z, ptrdiff_t width, ptrdiff_t count, real *out,
                            ptrdiff_t out_row)
{
    const ptrdiff_t covered = out_row == width && width > LL_LANES ? count - 1 : 0;

    for (ptrdiff_t c = (width - 1) / LL_LANES * LL_LANES; c >= 0; c -= LL_LANES) {
        const ptrdiff_t part = least(LL_LANES, width - c);
        const real *class[LL_LANES];
        vec rows[LL_LANES];

        for (ptrdiff_t l = 0; l < LL_LANES; l++)
            class[l] = z + (c + least(l, part - 1)) * LL_LANES;
        vtranspose(class, 0, rows);
        for (ptrdiff_t r = 0; r < count; r++)
            if (part == LL_LANES || r < covered)
                vstore(out + r * out_row + c, rows[r]);
            else {
                real last[LL_LANES];
                vstore(last, rows[r]);
                memcpy(out + r * out_row + c, last, (size_t)part * sizeof(real));
            }
    }
}

/* fold_softmax of LL_LANES rows, of which the last may be others again. */
LL_TEMPLATE void fold_segment_sums(const ll_state *state, ptrdiff_t i, real *z, ptrdiff_t width,
                                   vec top, vec at, const int keeps, const int count)
{
    const vec old = vload(field(state, LL_MAX) + i);
    const mask grows = vlt(old, top);
    const vec max = vselect(grows, top, old), held = vselect(grows, at, vset(-1));
    vec terms[LL_VALUES], sum, rest = vload(field(state, LL_REST) + i);
    const vec all = vadd(vset(1), rest), shift = vsub(old, top), scale = vexp_nonpositive(shift);

    sum = sum_exp_by_rows(z, width, max, held, keeps, count, terms);
    LL_EACH_STATISTIC(which, count) {
        real *known = field(state, which) + i;
        vec before = which > LL_FIRST_STATISTIC ? vload(known - state->stride) : vset(0);
        vec moved = statistic_move(which, vload(known), before, all, shift, scale, 0);
        vstore(known, vadd(vselect(grows, moved, vload(known)), terms[which]));
    }
    vstore(field(state, LL_REST) + i, vadd(vselect(grows, vmul(all, scale), rest), sum));
}

static void fold_segment_softmax(const ll_job *job, const ll_state *state, ptrdiff_t i, real *z,
                                 ptrdiff_t width, vec top, vec at)
{
    const ll_question *q = &job->question;
    const int keeps = job->output.out && job->output.write == LL_PROBA;

    if (asks(q, LL_SECOND))
        fold_segment_sums(state, i, z, width, top, at, keeps, 2);
    else if (asks(q, LL_MOMENT))
        fold_segment_sums(state, i, z, width, top, at, keeps, 1);
    else if (keeps)
        fold_segment_sums(state, i, z, width, top, at, 1, 0);
    else
        fold_segment_sums(state, i, z, width, top, at, 0, 0);
}

/* Probabilities, or their logarithms, of a row's only segment; see normalise_row. */
static void normalise_segment(const ll_output *output, const ll_state *state, ptrdiff_t i, real *z,
                              ptrdiff_t width)
{
    const int log = output->write == LL_LOG_PROBA;
    const vec max = vload(field(state, LL_MAX) + i);
    const vec norm = row_norm(log, max, vload(field(state, LL_REST) + i));

    for (ptrdiff_t c = 0; c < width; c++, z += LL_LANES)
        vstore(z, log ? vsub(vsub(vload(z), max), norm) : vdiv(vload(z), norm));
}

/* epilogue() for rows i, ..., `count` of them, and a segment whose logits are in z, which is
 * overwritten. Returns 0, with nothing done, where a row needs more care. */
static int fold_segment(const ll_job *job, const ll_state *state, ptrdiff_t i, ptrdiff_t count,
                        real *z, const segment *s)
{
    const ll_question *q = &job->question;
    const ll_output *output = &job->output;
    const vec old = vload(field(state, LL_MAX) + i);
    real *out = output->out ? (real *)output->out + i * output->out_row + s->first : NULL;
    const int once = out && is_written_once(output, job->n);
    real place[LL_LANES];
    vec top, at;

    if (!top_of_segment(z, s->width, &top, &at)
        || mbits(mor(vunordered(old, old), veq(old, vset(LL_INF)))))
        return 0;
    for (ptrdiff_t j = 0; j < q->n_targets; j++)
        for (ptrdiff_t r = 0; r < count; r++) {
            const ptrdiff_t which = (i + r) * q->n_targets + j;
            const int64_t c = q->targets[which] - s->first;
            if (c >= 0 && c < s->width)
                ((real *)output->state.target_logit)[which] = z[c * LL_LANES + r];
        }
    vstore(place, vselect(vlt(old, top), at, vset(-1)));
    for (ptrdiff_t r = 0; r < count; r++)
        if (place[r] >= 0)
            state->ints[LL_ARGMAX * state->stride + i + r] = s->first + (int64_t)place[r];
    if (out && !once)
        segment_to_rows(z, s->width, count, out, output->out_row);
    if (asks(q, LL_REST))
        fold_segment_softmax(job, state, i, z, s->width, top, at);
    vstore(field(state, LL_MAX) + i, vmax(top, old));
    if (once) {
        normalise_segment(output, state, i, z, s->width);
        segment_to_rows(z, s->width, count, out, output->out_row);
    }
    return 1;
}
