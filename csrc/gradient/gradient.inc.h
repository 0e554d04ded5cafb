/* The gradients: with G the derivatives of the loss by the logits,
 *     d_x = G . weight    d_weight = G' . x    d_bias = the sum of G over the rows.
 *
 * The same micro-kernel as for the logits, now with features along the lanes. Sums are cut into
 * chains, each started from zero and then added: d_x over KC classes, d_weight and d_bias over a
 * group of rows.
 */

/* The same with a filter: filtered.inc.h. */
static void filtered_group(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                           ptrdiff_t rows, const segment *s, real *tile, const gradient_space *w);
static void filtered_weight(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                            ptrdiff_t rows, const segment *s, real *tile, ptrdiff_t f,
                            ptrdiff_t f_last, const gradient_space *w);
static void filtered_x(const ll_job *job, const ll_gradient *grad, ptrdiff_t f_first,
                       ptrdiff_t f_last, ptrdiff_t r_first, ptrdiff_t r_last);

/* Sums that a micro-kernel adds to: they come while it multiplies. */
static inline void prefetch_sums(ptrdiff_t height, ptrdiff_t width, const real *c, ptrdiff_t c_row)
{
    for (ptrdiff_t r = 0; r < height; r++)
        for (ptrdiff_t j = 0; j <= width; j++)
            prefetch(c + r * c_row + j * LL_LANES - (j == width));
}

/* c += a . b, or c = a . b: as multiply, but c comes from memory. */
static void add_product(ptrdiff_t rows, ptrdiff_t width, ptrdiff_t kc, const real *a,
                        ptrdiff_t a_row, const real *b, ptrdiff_t b_panel, real *c,
                        ptrdiff_t c_row, int first)
{
    for (ptrdiff_t i = 0, height; i < rows; i += height) {
        height = panel_height(i, rows);
        prefetch_sums(height, width, c + i * c_row, c_row);
        micro_for(height, width)(kc, a + i * a_row, b, b_panel, c + i * c_row, c_row, first,
                                 NULL);
    }
}

/* Rows of `count` < LL_LANES features from whole vectors. */
static void add_part(ptrdiff_t rows, ptrdiff_t count, const real *part, real *c, ptrdiff_t c_row,
                     int first)
{
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < count; j++)
            c[i * c_row + j] = first ? part[i * LL_LANES + j]
                                     : c[i * c_row + j] + part[i * LL_LANES + j];
}

/* The group that starts at this row is the first to be added where its gradients go. */
static inline int is_first(const ll_gradient *grad, ptrdiff_t start)
{
    return grad->apart || (!grad->add_weight && start == 0);
}

/* The gradient of `size` weights that the group goes into. */
static inline real *target_of(const ll_job *job, const ll_gradient *grad, void *gradient,
                              ptrdiff_t size, ptrdiff_t start)
{
    return (real *)gradient + (grad->apart ? start / group_rows(job->n) * size : 0);
}

/* From one vector of features to the next: an odd number of vectors, as an even one would bring
 * all of them to a few cache sets. */
static inline ptrdiff_t column_panel(ptrdiff_t rows) { return (rows | 1) * LL_LANES; }

/* G of some classes and of a group into features [f, f_last) of d_weight. */
static void add_weight(const ll_job *job, const ll_gradient *grad, ptrdiff_t start, ptrdiff_t rows,
                       const segment *s, ptrdiff_t f, ptrdiff_t f_last, const gradient_space *w)
{
    const ptrdiff_t k = job->product.k, b_panel = column_panel(rows), group = group_rows(job->n);
    const real *b = (const real *)grad->columns + start / group * vectors(k) * column_panel(group);
    real *c = target_of(job, grad, grad->d_weight, job->n * k, start) + s->first * k;
    int first = is_first(grad, start);

    for (ptrdiff_t width; f < f_last; f += width * LL_LANES) {
        ptrdiff_t whole = least(LL_NV, (f_last - f) / LL_LANES);
        width = whole ? whole : 1;
        add_product(s->width, width, rows, w->a, rows, b + f / LL_LANES * b_panel, b_panel,
                    whole ? c + f : w->c, whole ? k : LL_LANES, first || !whole);
        if (!whole)
            add_part(s->width, f_last - f, w->c, c + f, k, first);
    }
}

static void add_bias(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                     const segment *s, const real *sums)
{
    real *c = target_of(job, grad, grad->d_bias, job->n, start) + s->first;
    int first = is_first(grad, start);

    for (ptrdiff_t j = 0; j < s->width; j++)
        c[j] = first ? sums[j] : c[j] + sums[j];
}

/* G of a step of rows, from the p-th of a group on, into its micro-panels and its sums. */
static void add_to_group(const ll_gradient *grad, ptrdiff_t p, ptrdiff_t step, ptrdiff_t rows,
                         const segment *s, const gradient_space *w)
{
    for (ptrdiff_t r = 0; r < step; r++) {
        const real *g = w->g + r * w->g_row;
        if (grad->d_weight)
            scatter(g, s->width, rows, p + r, w->a);
        for (ptrdiff_t c = 0; grad->d_bias && c < s->width; c += LL_LANES)
            vstore(w->sums + c, vadd(vload(w->sums + c), vload(g + c)));
    }
}

/* A group of rows of one block. */
static void gradient_group(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                           ptrdiff_t rows, const segment *s, real *tile, const gradient_space *w)
{
    memset(w->sums, 0, (size_t)w->g_row * sizeof(real));
    for (ptrdiff_t p = 0, step; p < rows; p += step) {
        step = least(LL_GROUP_STEP, rows - p);
        gradient_step(job, grad, start + p, step, *s, tile, w);
        add_to_group(grad, p, step, rows, s, w);
    }
    if (grad->d_weight)
        add_weight(job, grad, start, rows, s, 0, job->product.k, w);
    if (grad->d_bias)
        add_bias(job, grad, start, s, w->sums);
}

static void gradient_logits(const ll_job *job, const ll_gradient *grad)
{
    gradient_space w = gradient_lay_out(job);
    ptrdiff_t group = group_rows(job->n);

    for (ptrdiff_t c = job->first; c < job->last; c += LL_BLOCK) {
        segment s = { .first = c, .width = least(LL_BLOCK, job->last - c) };
        s.vecs = vectors(s.width);
        for (ptrdiff_t i = 0; i < job->rows; i += group)
            (grad->filter ? filtered_group : gradient_group)(
                job, grad, i, least(group, job->rows - i), &s, kept_tile(job, c), &w);
    }
}

/* ---- derivatives that were left where the logits were -------------------------------------- */

/* G of some classes of a group of rows as micro-panels of classes. What a panel spills over belongs
 * to the next. */
static void turn_group(const ll_job *job, ptrdiff_t start, ptrdiff_t rows, const segment *s,
                       const real *tile, real *a)
{
    const ptrdiff_t row = tile_row(job->n);

    for (ptrdiff_t c = 0, classes; c < s->width; c += classes) {
        classes = panel_height(c, s->width);
        for (ptrdiff_t p = 0, height; p < rows; p += height) {
            height = panel_height(start + p, job->rows);
            interleave(tile + (start + p) * row + (s->first % LL_BLOCK + c) * height, height,
                       classes, (height + LL_SQUARE - 1) / LL_SQUARE * LL_SQUARE, classes,
                       a + c * rows + p * classes, height * row);
        }
    }
}

/* Their sums over the rows. */
static void sum_group(ptrdiff_t rows, ptrdiff_t width, const real *a, real *sums)
{
    for (ptrdiff_t c = 0, classes; c < width; c += classes) {
        classes = panel_height(c, width);
        for (ptrdiff_t own = 0; own < classes; own += LL_LANES) {
            vec sum = vset(0);
            for (ptrdiff_t p = 0; p < rows; p++)
                sum = vadd(sum, vload(a + c * rows + p * classes + own));
            vstore(sums + c + own, sum);
        }
    }
}

/* A group of rows of some classes into features [f, f_last) of the gradient of the weights; with the
 * first of them, into that of the bias. */
static void turned_weight(const ll_job *job, const ll_gradient *grad, ptrdiff_t start,
                          ptrdiff_t rows, const segment *s, real *tile, ptrdiff_t f,
                          ptrdiff_t f_last, const gradient_space *w)
{
    turn_group(job, start, rows, s, tile, w->a);
    if (grad->d_bias && f == 0) {
        sum_group(rows, s->width, w->a, w->sums);
        add_bias(job, grad, start, s, w->sums);
    }
    if (grad->d_weight)
        add_weight(job, grad, start, rows, s, f, f_last, w);
}

static void gradient_weight(const ll_job *job, const ll_gradient *grad, ptrdiff_t f_first,
                            ptrdiff_t f_last)
{
    gradient_space w = gradient_lay_out(job);
    ptrdiff_t group = group_rows(job->n);

    for (ptrdiff_t c = job->first, width; c < job->last; c += width) {
        width = least(LL_BLOCK - c % LL_BLOCK, job->last - c);
        segment s = { .first = c, .width = width };
        for (ptrdiff_t i = 0; i < job->rows; i += group) {
            ptrdiff_t rows = least(group, job->rows - i);
            (grad->filter ? filtered_weight : turned_weight)(job, grad, i, rows, &s,
                                                             kept_tile(job, c), f_first, f_last,
                                                             &w);
        }
    }
}

static void add_in_order(ptrdiff_t groups, ptrdiff_t count, const void *parts, ptrdiff_t row,
                         void *into, int add)
{
    const real *part = parts;
    real *sum = into;

    for (ptrdiff_t g = 0; g < groups; g++, part += row, add = 1)
        for (ptrdiff_t i = 0; i < count; i++)
            sum[i] = add ? sum[i] + part[i] : part[i];
}

/* ---- columns of features ------------------------------------------------------------------- */

/* Rows [first, first + rows) of a group of `of`, whose columns begin at `packed`. */
static void pack_group(const ll_gradient *grad, const real *x, ptrdiff_t i, ptrdiff_t first,
                       ptrdiff_t rows, ptrdiff_t of, ptrdiff_t k, ptrdiff_t x_row, real *packed)
{
    const ptrdiff_t by_lane = column_panel(of) / LL_LANES;

    packed += first * LL_LANES;
    for (ptrdiff_t last = i + rows; i < last; i++, x += x_row, packed += LL_LANES) {
        ptrdiff_t f = 0;
        if (left_out(grad, i)) {
            for (; f < k; f += LL_LANES)
                vstore(packed + f * by_lane, vset(0));
            continue;
        }
        for (; f + LL_LANES <= k; f += LL_LANES)
            vstore(packed + f * by_lane, vload(x + f));
        if (f < k)
            vstore(packed + f * by_lane, gather(x + f, 1, k - f));
    }
}

static void pack_columns(const ll_job *job, const ll_gradient *grad, const void *x,
                         ptrdiff_t x_row, ptrdiff_t first, ptrdiff_t of, void *packed)
{
    const ptrdiff_t k = job->product.k, group = group_rows(job->n);

    for (ptrdiff_t i = 0, rows; i < job->rows; i += rows) {
        ptrdiff_t own = (first + i) % group, start = first + i - own;
        rows = least(group - own, job->rows - i);
        pack_group(grad, (const real *)x + i * x_row, i, own, rows, least(group, of - start), k,
                   x_row, (real *)packed + start / group * vectors(k) * column_panel(group));
    }
}

/* Features f, ... (a vector) of classes c, ..., `count` of them and at most LL_LANES, from packed
 * weights, of which the next strip is fetched; features behind the last repeat it. */
static void transpose_panel(const ll_product *p, ptrdiff_t c, ptrdiff_t count, ptrdiff_t f, real *b)
{
    const ptrdiff_t last = p->k - 1 - f;
    const real *panel, *row[LL_LANES];
    vec square[LL_LANES];
#if LL_REAL == 32
    real widened[LL_LANES * LL_LANES];

    if (is_narrow(p)) {
        widen_panel(p->type, (const uint32_t *)class_at(p, p->weight, c) + f / 2 * LL_WORD_LANES,
                    least(LL_LANES, p->k - f), widened);
        panel = widened;
    } else
#endif
    {
        panel = (const real *)class_at(p, p->weight, c) + f * LL_LANES;
        for (ptrdiff_t j = 0; j < LL_LANES; j++)
            prefetch_to_l2(panel + least(j + LL_STRIP * LL_LANES, last) * LL_LANES);
    }
    for (ptrdiff_t j = 0; j < LL_LANES; j++)
        row[j] = panel + least(j, last) * LL_LANES;
    vtranspose(row, 0, square);
    for (ptrdiff_t j = 0; j < count; j++)
        vstore(b + j * LL_LANES, square[j]);
}

/* Features f, ... (`width` vectors) of classes [c, c + kc), counted from the job's first, as panels
 * of kc vectors. */
static void weight_columns(const ll_product *from, ptrdiff_t c, ptrdiff_t kc, ptrdiff_t f,
                           ptrdiff_t width, real *b)
{
    const ptrdiff_t w_row = from->w_row, w_col = from->w_col, left = from->k - f;
    const void *w = class_at(from, from->weight, from->packed ? 0 : c);

    for (ptrdiff_t own = 0; from->packed && own < width * LL_LANES; own += LL_LANES)
        for (ptrdiff_t p = 0; p < kc; p += LL_LANES)
            transpose_panel(from, c + p, least(LL_LANES, kc - p), f + own,
                            b + (own / LL_LANES * kc + p) * LL_LANES);
    for (ptrdiff_t p = 0; !from->packed && p < kc; p++)
        for (ptrdiff_t j = 0; j < width; j++)
            vstore(b + (j * kc + p) * LL_LANES,
                   gather_weights(from, w, p * w_row + (f + j * LL_LANES) * w_col, w_col,
                                  left - j * LL_LANES));
}

/* What weight_columns packs next: the next strip, or the first of the next classes. */
static inline region next_strip(const ll_job *job, ptrdiff_t c, ptrdiff_t f, ptrdiff_t f_first,
                                ptrdiff_t f_last)
{
    const ll_product *p = &job->product;
    const ptrdiff_t item = is_narrow(p) ? (ptrdiff_t)sizeof(uint16_t) : (ptrdiff_t)sizeof(real);
    region next = { p->weight, 0, class_bytes(p), 0 };

    if (p->packed || p->w_col != 1)
        return next;
    f += LL_STRIP * LL_LANES;
    if (f >= f_last) {
        f = f_first;
        c += LL_KC;
    }
    next.at = (const char *)class_at(p, p->weight, c - job->first) + f * item;
    next.rows = c < job->last ? least(LL_KC, job->last - c) : 0;
    next.width = least(LL_STRIP * LL_LANES, f_last - f) * item;
    return next;
}

/* Where G of LL_KC classes, or fewer, of some rows is, and where its products go. */
typedef struct {
    real *tile;
    ptrdiff_t chunk, kc, r_first, r_last;
    int first;
} x_part;

/* Micro-panels of G times weights, into features of d_x; `pass` of `passes` over the rows. */
static void add_rows(const ll_job *job, const x_part *part, ptrdiff_t width, const real *b, real *c,
                     ptrdiff_t c_row, int first, const region *next, ptrdiff_t pass,
                     ptrdiff_t passes)
{
    const ptrdiff_t row = tile_row(job->n), rows = part->r_last - part->r_first;

    for (ptrdiff_t i = part->r_first, height; i < part->r_last; i += height, c += height * c_row) {
        height = panel_height(i, job->rows);
        prefetch_part(next, pass * rows + i - part->r_first, height, passes * rows);
        prefetch_sums(height, width, c, c_row);
        micro_for(height, width)(part->kc,
                                 part->tile + i * row + part->chunk * LL_KC * height, b,
                                 part->kc * LL_LANES, c, c_row, first, NULL);
    }
}

/* A strip of features, `count` of them, whose weights are packed. */
static void add_strip(const ll_job *job, const ll_gradient *grad, const x_part *part, ptrdiff_t f,
                      ptrdiff_t count, const region *next, const gradient_space *w)
{
    real *d_x = (real *)grad->d_x + part->r_first * grad->dx_row + f;
    ptrdiff_t pass = 0, passes = (vectors(count) + LL_NV - 1) / LL_NV;

    for (ptrdiff_t own = 0, width; own < count; own += width * LL_LANES, pass++) {
        const real *b = w->b + own * part->kc;
        width = least(LL_NV, (count - own) / LL_LANES);
        if (width) {
            add_rows(job, part, width, b, d_x + own, grad->dx_row, part->first, next, pass, passes);
            continue;
        }
        width = 1;
        add_rows(job, part, 1, b, w->c, LL_LANES, 1, next, pass, passes);
        add_part(part->r_last - part->r_first, count - own, w->c, d_x + own, grad->dx_row,
                 part->first);
    }
}

static void gradient_x(const ll_job *job, const ll_gradient *grad, ptrdiff_t f_first,
                       ptrdiff_t f_last, ptrdiff_t r_first, ptrdiff_t r_last)
{
    gradient_space w = gradient_lay_out(job);

    if (grad->filter) {
        filtered_x(job, grad, f_first, f_last, r_first, r_last);
        return;
    }
    for (ptrdiff_t c = job->first; c < job->last; c += LL_KC) {
        x_part part = { kept_tile(job, c), c % LL_BLOCK / LL_KC, least(LL_KC, job->last - c),
                        r_first, r_last, !grad->add_x && c == 0 };
        for (ptrdiff_t f = f_first; f < f_last; f += LL_STRIP * LL_LANES) {
            ptrdiff_t count = least(LL_STRIP * LL_LANES, f_last - f);
            region next = next_strip(job, c, f, f_first, f_last);
            weight_columns(&job->product, c - job->first, part.kc, f, vectors(count), w.b);
            add_strip(job, grad, &part, f, count, &next, &w);
        }
    }
}
