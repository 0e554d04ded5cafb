/* The loops: span of classes -> block of classes -> tile of rows -> product, then epilogue. */

/* Rows i, ... of a finished tile into the state. With `vecs` a constant its loops are unrolled. */
LL_TEMPLATE void fold_tile(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, segment s,
                           const ptrdiff_t vecs, const workspace *w)
{
    const int transformed = is_transformed(&job->product), by_rows = vecs == 1 && goes_by_rows(job);

    s.vecs = vecs;
    for (ptrdiff_t r = 0; r < rows; r++, s.z += w->tile_row) {
        while (by_rows && r + LL_LANES <= rows
               && fold_tile_by_rows(job, i + r, s, w)) {
            r += LL_LANES;
            s.z += LL_LANES * w->tile_row;
        }
        if (r == rows)
            return;
        if (transformed)
            transform(&job->product, vset((real)temperature_of(&job->product, i + r)), s.z, vecs);
        if (excludes(job))
            exclude_row(job, i + r, &s, w);
        if (s.width % LL_LANES)
            mask_tail(s.z + s.width / LL_LANES * LL_LANES, s.width % LL_LANES);
        epilogue(job, &w->span, i + r, &s);
    }
}

static void fold_rows(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const segment *s,
                      const workspace *w)
{
    if (s->vecs == 1)
        fold_tile(job, i, rows, *s, 1, w);
    else
        fold_tile(job, i, rows, *s, s->vecs, w);
}

/* Row i of the tile. */
static inline real *few_tile(const ll_job *job, ptrdiff_t i, const workspace *w)
{
    return job->output.keep ? kept_tile(job, 0) + i * w->tile_row : w->tile;
}

/* LL_LANES rows whose logits are in z. Returns 0 where they must go through a tile. */
static int fold_few(const ll_job *job, ptrdiff_t i, vec *z, const workspace *w)
{
    if (excludes(job)) {
        real logit[LL_LANES * LL_LANES];
        for (ptrdiff_t c = 0; c < job->n; c++)
            vstore(logit + c * LL_LANES, z[c]);
        exclude_by_rows(job, i, LL_LANES, 0, job->n, logit);
        for (ptrdiff_t c = 0; c < job->n; c++)
            z[c] = vload(logit + c * LL_LANES);
    }
    if (job->output.keep)
        keep_by_rows(z, job->n, few_tile(job, i, w), w->tile_row);
    return fold_by_rows(job, &w->span, i, z, job->n);
}

/* Few classes: LL_LANES rows at a time, lanes are rows; the last ones, and where more is asked,
 * through a tile. */
static void score_few(const ll_job *job, const void *weight, segment *s, const workspace *w)
{
    const ll_product *p = &job->product;
    const ptrdiff_t n = job->n, k = p->k, group = dot_group(n);
    const int by_rows = goes_by_rows(job);
    const int transposes = by_rows && is_transposed(n, k) && job->rows >= LL_LANES;
    real *sums = w->panels, *own = sums + LL_SMALL_N * LL_DOT_CLASS;
    real *transposed = own + n * vectors(k) * LL_LANES;
    real *transposed_x = transposed + n * LL_TRANSPOSED_K;
    vec z[LL_LANES];

    dot_weights(p, weight, n, own);
    if (transposes)
        transpose_weights(p, weight, n, transposed);
    for (ptrdiff_t i = 0, rows; i < job->rows; i += rows) {
        const real *x = (const real *)p->x + i * p->x_row;

        rows = least(group, job->rows - i);
        if (transposes && rows >= LL_LANES) {
            rows = LL_LANES;
            transposed_logits(n, k, x, p->x_row, transposed, w->bias, transposed_x, z);
            if (fold_few(job, i, z, w))
                continue;
        }
        dot_sums(rows, n, k, x, p->x_row, own, sums);
        for (ptrdiff_t r = 0; r < rows; r += LL_LANES) {
            ptrdiff_t count = least(LL_LANES, rows - r);

            if (by_rows && count == LL_LANES) {
                dot_by_rows(n, w->bias, sums + r * LL_LANES, z);
                if (fold_few(job, i + r, z, w))
                    continue;
            }
            s->z = few_tile(job, i + r, w);
            dot_rows(count, n, w->bias, sums + r * LL_LANES, s->z, w->tile_row);
            fold_rows(job, i + r, count, s, w);
        }
    }
}

/* LL_LANES rows i, ..., `count` of them, whose logits lie class by class in z. */
static void fold_turned(const ll_job *job, ptrdiff_t i, ptrdiff_t count, real *z, segment *s,
                        const workspace *w)
{
    const ll_product *p = &job->product;
    const ptrdiff_t classes = s->vecs * LL_LANES;
    real *tile = job->output.keep ? kept_tile(job, s->first) + i * w->tile_row : w->tile;

    if (is_transformed(p)) {
        real t[LL_LANES];
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            t[r] = (real)temperature_of(p, i + least(r, count - 1));
        transform(p, vload(t), z, s->width);
    }
    if (excludes(job))
        exclude_by_rows(job, i, count, s->first, s->width, z);
    for (ptrdiff_t c = s->width; c < classes; c++)
        vstore(z + c * LL_LANES, vset(-LL_INF));
    if (job->output.keep)
        segment_to_rows(z, classes, count, tile, w->tile_row);
    if (segment_goes_by_rows(job) && fold_segment(job, &w->span, i, count, z, s))
        return;
    if (!job->output.keep)
        segment_to_rows(z, classes, count, tile, w->tile_row);
    for (ptrdiff_t r = 0; r < count; r++) {
        s->z = tile + r * w->tile_row;
        epilogue(job, &w->span, i + r, s);
    }
}

/* Rows that are not packed. */
static void score_unpacked(const ll_job *job, const void *weight, segment *s, const workspace *w)
{
    const real *panels = all_panels(&job->product, weight, s->width, w);

    for (ptrdiff_t i = 0; i < job->rows; i += LL_NV * LL_LANES) {
        const ptrdiff_t rows = least(LL_NV * LL_LANES, job->rows - i);

        product_by_rows(job, i, rows, panels, s->first, s->width, w);
        for (ptrdiff_t r = 0; r < rows; r += LL_LANES)
            fold_turned(job, i + r, least(LL_LANES, rows - r), w->z + r / LL_LANES * w->z_panel, s,
                        w);
    }
}

static void score_block(const ll_job *job, ptrdiff_t c, workspace *w)
{
    const ll_product *p = &job->product;
    segment s;
    const real *bias = (const real *)p->bias;
    const ptrdiff_t own = c - job->first;
    const void *weight = p->logits ? NULL : class_at(p, p->weight, own);

    s.first = c;
    s.width = least(LL_BLOCK, job->last - c);
    s.vecs = vectors(s.width);
    memset(w->bias, 0, LL_BLOCK * sizeof(real));
    if (bias)
        memcpy(w->bias, bias + own, (size_t)s.width * sizeof(real));
    if (excludes_alike(job))
        mark_excluded(job, c, s.width, w);
    if (is_few(job)) {
        score_few(job, weight, &s, w);
        return;
    }
    if (goes_unpacked(job)) {
        score_unpacked(job, weight, &s, w);
        return;
    }
    for (ptrdiff_t i = 0; i < job->rows; i += w->tile_rows) {
        ptrdiff_t rows = least(w->tile_rows, job->rows - i);
        if (job->output.keep)
            w->tile = kept_tile(job, c) + i * w->tile_row;
        tile_logits(job, i, rows, c, s.width, weight, w);
        s.z = w->tile;
        fold_rows(job, i, rows, &s, w);
    }
}

static void score(const ll_job *job)
{
    workspace w = lay_out(job);
    const int merges = has_spans(job);

    if (!merges) /* the only span is all there is */
        w.span = job->output.state;
    for (ptrdiff_t c = job->first; c < job->last; c += LL_BLOCK) {
        if (merges && c % LL_SPAN == 0)
            init_rows(job, &w.span);
        score_block(job, c, &w);
        if (merges && ((c + LL_BLOCK) % LL_SPAN == 0 || c + LL_BLOCK >= job->n))
            merge_rows(job, &w.span);
    }
}
