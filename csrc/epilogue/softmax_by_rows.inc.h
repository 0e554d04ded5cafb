/* The epilogue for few classes, LL_LANES rows at a time: transposed, so that lanes are rows, and
 * then the same operations on the same operands as row by row. z[c] is logit c of all these rows. */

/* Nothing is asked that fold_by_rows does not find. */
static inline int goes_by_rows(const ll_job *job)
{
    const ll_question *q = &job->question;

    return job->n <= LL_LANES && q->n_targets <= 1 && !is_transformed(&job->product)
        && !(excludes(job) && q->top)
        && !(q->fields & (LL_FIELD(PROB_SUM) | LL_FIELD(SMOOTH_SUM)));
}

/* Sum over classes: the tree of vsum. Overwrites the terms. */
static inline vec sum_by_rows(vec *term, ptrdiff_t n)
{
    for (ptrdiff_t c = n; c < LL_LANES; c++)
        term[c] = vset(0);
    for (ptrdiff_t step = LL_LANES / 2; step > 0; step /= 2)
        for (ptrdiff_t c = 0; c < step; c++)
            term[c] = vadd(term[c], term[c + step]);
    return term[0];
}

/* The largest logit of each row and where it is first. Returns 0 where a row has a NaN, or no
 * finite largest logit. Of zeros of both signs it is the one that the tree of vtop finds. */
static inline int top_by_rows(const vec *z, ptrdiff_t n, vec *top, vec *at)
{
    vec tree[LL_LANES];
    mask bad = vunordered(z[0], z[n - 1]);

    for (ptrdiff_t c = 0; c < LL_LANES; c++) {
        tree[c] = c < n ? z[c] : vset(-LL_INF);
        bad = mor(bad, vunordered(tree[c], tree[c]));
    }
    for (ptrdiff_t step = LL_LANES / 2; step > 0; step /= 2)
        for (ptrdiff_t c = 0; c < step; c++)
            tree[c] = vmax(tree[c], tree[c + step]);
    *top = tree[0];
    if (mbits(mor(bad, vunordered(undefined(*top), *top))))
        return 0;
    *at = vset((real)(n - 1));
    for (ptrdiff_t c = n - 2; c >= 0; c--)
        *at = vselect(veq(z[c], *top), vset((real)c), *at);
    return 1;
}

/* Classes that rank before the target; see count_before. */
static void rank_by_rows(const ll_job *job, const ll_state *state, ptrdiff_t i, const vec *z,
                         ptrdiff_t n)
{
    const vec zero = vset(0), one = vset(1);
    real logit[LL_LANES], class[LL_LANES], before[LL_LANES];
    vec count = zero;

    for (ptrdiff_t r = 0; r < LL_LANES; r++) {
        int64_t target = job->question.targets[i + r];
        class[r] = (real)target;
        logit[r] = target < 0 ? 0 : ((const real *)job->output.state.target_logit)[i + r];
    }
    for (ptrdiff_t c = 0; c < n; c++) {
        mask earlier = vlt(vset((real)c), vload(class));
        count = vadd(count, vselect(earlier, vselect(vlt(z[c], vload(logit)), zero, one),
                                    vselect(vle(z[c], vload(logit)), zero, one)));
    }
    vstore(before, count);
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        state->ints[LL_RANK * state->stride + i + r] = (int64_t)before[r];
}

/* Values class by class, transposed to rows. */
static void classes_to_rows(const vec *value, ptrdiff_t n, vec *rows)
{
    real transposed[LL_LANES][LL_LANES];
    const real *row[LL_LANES];

    for (ptrdiff_t c = 0; c < n; c++)
        vstore(transposed[c], value[c]);
    for (ptrdiff_t c = 0; c < LL_LANES; c++)
        row[c] = transposed[least(c, n - 1)];
    vtranspose(row, 0, rows);
}

/* One value of each row for each of n classes, rows after each other. */
static void flatten_by_rows(const vec *value, ptrdiff_t n, real *flat)
{
    vec rows[LL_LANES];

    classes_to_rows(value, n, rows);
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        vstore(flat + r * n, rows[r]); /* what is behind the last class, the next row covers */
}
#define LL_FLAT (LL_LANES * LL_LANES + LL_LANES)

/* The same into `out`. */
static void write_by_rows(const ll_output *output, ptrdiff_t i, const vec *value, ptrdiff_t n)
{
    real flat[LL_FLAT], *out = (real *)output->out + i * output->out_row;

    flatten_by_rows(value, n, flat);
    if (output->out_row == n)
        memcpy(out, flat, (size_t)(LL_LANES * n) * sizeof(real));
    else
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            memcpy(out + r * output->out_row, flat + r * n, (size_t)n * sizeof(real));
}

/* A class's place is the number of classes that outrank it: the earlier of two unless the later has
 * the larger logit. */
static void places_by_rows(const vec *z, ptrdiff_t n, vec *place)
{
    const vec zero = vset(0), one = vset(1);

    for (ptrdiff_t c = 0; c < n; c++) {
        vec outranked = vset((real)(n - 1 - c));
        for (ptrdiff_t b = 0; b < c; b++) {
            vec first = vselect(vle(z[c], z[b]), one, zero);
            place[b] = vsub(place[b], first);
            outranked = vadd(outranked, first);
        }
        place[c] = outranked;
    }
}

/* The best classes in order, and their log-probabilities; see finish_best. */
static void best_by_rows(const ll_job *job, const ll_state *state, ptrdiff_t i, const vec *z,
                         ptrdiff_t n)
{
    const ptrdiff_t top = job->question.top, count = LL_LANES * top;
    const ll_state *best = &job->output.state;
    vec place[LL_LANES], logit[LL_LANES], index[LL_LANES];
    real flat[LL_FLAT];

    places_by_rows(z, n, place);
    for (ptrdiff_t j = 0; j < top; j++) {
        const vec wanted = vset((real)j);
        vec value = z[0], class = vset(0);
        for (ptrdiff_t c = 1; c < n; c++) {
            mask here = veq(place[c], wanted);
            value = vselect(here, z[c], value);
            class = vselect(here, vset((real)c), class);
        }
        logit[j] = value;
        index[j] = class;
    }
    flatten_by_rows(logit, top, flat);
    memcpy((real *)best->top_logit + i * top, flat, (size_t)count * sizeof(real));
    flatten_by_rows(index, top, flat);
    for (ptrdiff_t j = 0; j < count; j++)
        best->top_index[i * top + j] = (int32_t)flat[j];
    if (best->top_log_prob) {
        const vec max = vload(field(state, LL_MAX) + i), rest = vload(field(state, LL_REST) + i);
        const vec log_norm = row_norm(1, max, rest);
        for (ptrdiff_t j = 0; j < top; j++)
            logit[j] = vsub(vsub(logit[j], max), log_norm);
        flatten_by_rows(logit, top, flat);
        memcpy((real *)best->top_log_prob + i * top, flat, (size_t)count * sizeof(real));
    }
}

/* Sums over the classes but the one `at`, and probabilities; see sum_exp and normalise_row. */
static void softmax_by_rows(const ll_job *job, const ll_state *state, ptrdiff_t i, const vec *z,
                            ptrdiff_t n, vec top, vec at)
{
    const vec floor = vset(R(-1e4)), zero = vset(0);
    const ll_question *q = &job->question;
    vec e[LL_LANES], others[LL_LANES], term[LL_N_STATISTICS][LL_LANES], rest;

    for (ptrdiff_t c = 0; c < n; c++) {
        vec d = vsub(z[c], top);
        e[c] = vexp_nonpositive(d);
        others[c] = vselect(veq(at, vset((real)c)), zero, e[c]);
        LL_EACH_STATISTIC(which, LL_N_STATISTICS)
            if (asks(q, which))
                term[which - LL_FIRST_STATISTIC][c]
                    = statistic_add(which, zero, others[c], vmax(floor, d));
    }
    rest = sum_by_rows(others, n);
    vstore(field(state, LL_REST) + i, rest);
    LL_EACH_STATISTIC(which, LL_N_STATISTICS)
        if (asks(q, which))
            vstore(field(state, which) + i, sum_by_rows(term[which - LL_FIRST_STATISTIC], n));
    if (is_written_once(&job->output, n)) {
        const int log = job->output.write == LL_LOG_PROBA;
        vec norm = row_norm(log, top, rest);
        for (ptrdiff_t c = 0; c < n; c++)
            e[c] = log ? vsub(vsub(z[c], top), norm) : vdiv(e[c], norm);
        write_by_rows(&job->output, i, e, n);
    }
}

/* epilogue() for LL_LANES rows i, ... whose classes are all in one vector. Returns 0, with nothing
 * done, where a row has no finite largest logit. */
static int fold_by_rows(const ll_job *job, const ll_state *state, ptrdiff_t i, const vec *z,
                        ptrdiff_t n)
{
    const ll_question *q = &job->question;
    const ll_output *output = &job->output;
    vec top, at;
    real first[LL_LANES], logit[LL_LANES][LL_LANES];

    if (!top_by_rows(z, n, &top, &at))
        return 0;
    vstore(field(state, LL_MAX) + i, top);
    vstore(first, at);
    for (ptrdiff_t c = 0; q->n_targets && c < n; c++)
        vstore(logit[c], z[c]);
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        state->ints[LL_ARGMAX * state->stride + i + r] = (int64_t)first[r];
    for (ptrdiff_t r = 0; q->n_targets && r < LL_LANES; r++)
        if (q->targets[i + r] >= 0)
            ((real *)output->state.target_logit)[i + r] = logit[q->targets[i + r]][r];
    if (q->rank)
        rank_by_rows(job, state, i, z, n);
    if (asks(q, LL_REST))
        softmax_by_rows(job, state, i, z, n, top, at);
    if (q->top)
        best_by_rows(job, state, i, z, n);
    if (output->out && output->write == LL_LOGITS)
        write_by_rows(output, i, z, n);
    return 1;
}

/* Logits of LL_LANES rows into the tile. */
static void keep_by_rows(const vec *z, ptrdiff_t n, real *tile, ptrdiff_t tile_row)
{
    vec rows[LL_LANES];

    classes_to_rows(z, n, rows);
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        vstore(tile + r * tile_row, rows[r]);
}

/* fold_by_rows of rows of a tile, the first of them s. */
static int fold_tile_by_rows(const ll_job *job, ptrdiff_t i, segment s, const workspace *w)
{
    const real *row[LL_LANES];
    vec z[LL_LANES];

    for (ptrdiff_t r = 0; r < LL_LANES; r++, s.z += w->tile_row) {
        if (excludes(job))
            exclude_row(job, i + r, &s, w);
        row[r] = s.z;
    }
    vtranspose(row, 0, z);
    return fold_by_rows(job, &w->span, i, z, job->n);
}
