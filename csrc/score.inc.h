/* The loops: span of classes -> block of classes -> tile of rows -> product, then epilogue. */

#define LL_TILE_ROWS 144 /* a multiple of every LL_MR: the tile stays in L2 */

typedef struct {
    ll_state span;
    real *bias, *panels, *tile;
    ptrdiff_t tile_rows, tile_row;
    size_t bytes;
} workspace;

/* One vector more than the classes need, so that the rows do not share cache sets. */
static inline ptrdiff_t tile_row(ptrdiff_t n)
{
    return least(LL_BLOCK, vectors(n) * LL_LANES) + LL_LANES;
}

/* Kept logits: block after block of classes, each a tile of all rows. */
static ptrdiff_t keep_size(ptrdiff_t rows, ptrdiff_t n)
{
    return (n + LL_BLOCK - 1) / LL_BLOCK * rows * tile_row(n);
}

static inline real *kept_tile(const ll_job *job, ptrdiff_t c)
{
    return (real *)job->keep
         + (c - job->keep_first) / LL_BLOCK * job->keep_rows * tile_row(job->n);
}

/* Few classes: chains; weights for these; weights and rows turned. */
static ptrdiff_t few_size(ptrdiff_t n, ptrdiff_t k)
{
    return LL_SMALL_N * LL_DOT_CLASS + n * vectors(k) * LL_LANES
         + (is_turned(n, k) ? (n + LL_LANES) * LL_TURN_K : 0);
}

/* Unpacked weights are packed KC features at a time, once for all rows, so the tile then holds
 * all rows; otherwise a tile is finished before the next is begun. */
static workspace lay_out(const ll_job *job)
{
    workspace w = { .span = job->state };
    int few = job->n <= LL_SMALL_N && !job->logits;
    int own_panels = !few && !job->packed && !job->logits;
    ptrdiff_t stride = vectors(job->rows) * LL_LANES;
    ptrdiff_t ints = LL_VALUES * stride;
    ptrdiff_t bias = ints + LL_INTS * stride * (ptrdiff_t)(sizeof(int64_t) / sizeof(real));
    ptrdiff_t panels = bias + LL_BLOCK, tile = panels;
    real *scratch = job->scratch;

    tile += own_panels ? LL_BLOCK * least(LL_KC, job->k) : 0;
    tile += few ? few_size(job->n, job->k) : 0;
    w.tile_rows = own_panels && job->k > LL_KC ? job->rows
                : least(few ? LL_LANES : LL_TILE_ROWS, job->rows);
    w.tile_row = few && !job->keep ? vectors(job->n) * LL_LANES : tile_row(job->n);
    w.bytes = (size_t)(tile + (job->keep ? 0 : w.tile_rows * w.tile_row)) * sizeof(real);
    if (!scratch) /* only the size is wanted */
        return w;
    w.span.stride = stride;
    w.span.values = scratch;
    w.span.ints = (int64_t *)(void *)(scratch + ints);
    w.bias = scratch + bias;
    w.panels = scratch + panels;
    w.tile = scratch + tile;
    return w;
}

static size_t scratch_bytes(const ll_job *job) { return lay_out(job).bytes; }

/* Logits at hand instead of a product. */
static void copy_logits(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t c,
                        ptrdiff_t width, const workspace *w)
{
    const real *z = (const real *)job->logits + i * job->z_row
                  + (c - job->first) * job->z_col;

    for (ptrdiff_t r = 0; r < rows; r++, z += job->z_row)
        for (ptrdiff_t j = 0; j < width; j++)
            w->tile[r * w->tile_row + j] = z[j * job->z_col];
}

/* The weights that come after KC features of `count` classes: the next features of the same
 * classes, or the first of the `last - c` classes that follow. Kernels of several panels, and those
 * of few rows, fetch packed ones themselves. */
static inline region next_weights(const ll_job *job, const real *weight, ptrdiff_t pc, ptrdiff_t c,
                                  ptrdiff_t count, ptrdiff_t last)
{
    region next = { weight, 0, job->w_row, 0 };

    if (job->packed ? LL_NV > 1 || is_streamed(job->rows) : job->w_col != 1)
        return next;
    pc += LL_KC;
    if (pc >= job->k) {
        pc = 0;
        c += count;
    }
    next.width = least(LL_KC, job->k - pc);
    next.rows = c < last ? least(count, last - c) : 0;
    next.at += job->packed ? c * job->k + pc * LL_LANES : c * job->w_row + pc;
    if (job->packed && next.rows) { /* a panel, feature by feature */
        next.rows = next.width;
        next.row = next.width = LL_LANES;
    }
    return next;
}

/* Panels of classes that go through all features together; of those packed on the way no more than
 * one micro-kernel takes, while they are in L1. */
static inline ptrdiff_t panel_group(const ll_job *job, ptrdiff_t rows)
{
    if (!job->packed)
        return LL_NV;
    return is_streamed(rows) ? 1 : most_width(least(rows, LL_MR));
}

/* Logits of rows i, ... against the block of classes c, ...; `weight` is the block's first.
 * Unpacked weights are packed just before the first rows that need them; `last` classes are left
 * from there. */
static void product(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, const real *weight,
                    ptrdiff_t width, ptrdiff_t last, const workspace *w)
{
    ptrdiff_t vecs = vectors(width);
    int pack = !job->packed && (i == 0 || job->k > LL_KC);

    for (ptrdiff_t v = 0, group; v < vecs; v += group) {
        ptrdiff_t c = v * LL_LANES, pc = 0;
        group = least(panel_group(job, rows), vecs - v);
        do { /* once even without features: the logit is the bias then */
            ptrdiff_t kc = least(LL_KC, job->k - pc);
            ptrdiff_t b_panel = LL_LANES * (job->packed ? job->k : kc);
            const real *a = (const real *)job->x + pc * job->rows + i * kc;
            const real *b = job->packed ? weight + c * job->k + pc * LL_LANES
                                        : w->panels + v * b_panel;
            const real *bias = pc + LL_KC >= job->k ? w->bias + c : NULL;
            if (pack)
                pack_panels(weight + c * job->w_row + pc * job->w_col,
                            least(group * LL_LANES, width - c), kc, job->w_row, job->w_col,
                            w->panels + v * b_panel,
                            bias ? group * LL_LANES * job->w_row - pc : LL_KC);
            region next = next_weights(job, weight, pc, c, group * LL_LANES, last);
            if (job->packed && is_streamed(rows))
                multiply_streamed(rows, kc, a, b, w->tile + c, w->tile_row, pc == 0, bias);
            else
                multiply(rows, group, kc, a, b, b_panel, w->tile + c, w->tile_row, pc == 0, bias,
                         &next);
            pc += LL_KC;
        } while (pc < job->k);
    }
}

/* The same of so few rows that weights are turned on the way to the registers, not packed. */
static void product_of_few(const ll_job *job, const real *weight, ptrdiff_t width,
                           const workspace *w)
{
    chain_function *chains = chains_for(job->rows, job->w_row);

    for (ptrdiff_t c = 0; c < width; c += LL_LANES) {
        const real *row[LL_LANES];
        for (ptrdiff_t r = 0; r < LL_LANES; r++)
            row[r] = weight + least(c + r, width - 1) * job->w_row;
        chains(job->k, job->x, row, LL_LANES * job->w_row, vload(w->bias + c), w->tile + c,
               w->tile_row);
    }
}

/* -inf behind the last class, in one store: the epilogue loads the whole vector at once. */
static inline void mask_tail(real *z, ptrdiff_t count)
{
    mask real_class = vlt(vload(lane_index), vset((real)count));
    vstore(z, vselect(real_class, vload(z), vset(-LL_INF)));
}

/* Rows i, ... of a finished tile into the state. With `vecs` a constant its loops are unrolled. */
LL_TEMPLATE void fold_tile(const ll_job *job, ptrdiff_t i, ptrdiff_t rows, segment s,
                           const ptrdiff_t vecs, const workspace *w)
{
    const int transformed = is_transformed(job), square = vecs == 1 && is_square(job);

    s.vecs = vecs;
    for (ptrdiff_t r = 0; r < rows; r++, s.z += w->tile_row) {
        while (square && r + LL_LANES <= rows
               && fold_tile_square(job, &w->span, i + r, s.z, w->tile_row)) {
            r += LL_LANES;
            s.z += LL_LANES * w->tile_row;
        }
        if (r == rows)
            return;
        if (transformed)
            transform(job, s.z, vecs);
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
    return job->keep ? kept_tile(job, 0) + i * w->tile_row : w->tile;
}

/* LL_LANES rows whose logits are in z. Returns 0 where they must go through a tile. */
static int fold_few(const ll_job *job, ptrdiff_t i, const vec *z, const workspace *w)
{
    if (job->keep)
        square_keep(z, job->n, few_tile(job, i, w), w->tile_row);
    return fold_square(job, &w->span, i, z, job->n);
}

/* Few classes: rows go by as squares, the last ones and those that ask for more through a tile. */
static void score_few(const ll_job *job, const real *weight, segment *s, const workspace *w)
{
    const ptrdiff_t n = job->n, k = job->k, group = dot_group(n);
    const int square = is_square(job), turn = square && is_turned(n, k) && job->rows >= LL_LANES;
    real *sums = w->panels, *own = sums + LL_SMALL_N * LL_DOT_CLASS;
    real *turned = own + n * vectors(k) * LL_LANES, *turned_x = turned + n * LL_TURN_K;
    vec z[LL_LANES];

    dot_weights(weight, n, k, job->w_row, job->w_col, own);
    if (turn)
        turn_weights(weight, n, k, job->w_row, job->w_col, turned);
    for (ptrdiff_t i = 0, rows; i < job->rows; i += rows) {
        const real *x = (const real *)job->x + i * job->x_row;

        rows = least(group, job->rows - i);
        if (turn && rows >= LL_LANES) {
            rows = LL_LANES;
            turn_square(n, k, x, job->x_row, turned, w->bias, turned_x, z);
            if (fold_few(job, i, z, w))
                continue;
        }
        dot_sums(rows, n, k, x, job->x_row, own, sums);
        for (ptrdiff_t r = 0; r < rows; r += LL_LANES) {
            ptrdiff_t count = least(LL_LANES, rows - r);

            if (square && count == LL_LANES) {
                dot_square(n, w->bias, sums + r * LL_LANES, z);
                if (fold_few(job, i + r, z, w))
                    continue;
            }
            s->z = few_tile(job, i + r, w);
            dot_rows(count, n, w->bias, sums + r * LL_LANES, s->z, w->tile_row);
            fold_rows(job, i + r, count, s, w);
        }
    }
}

static void score_block(const ll_job *job, ptrdiff_t c, workspace *w)
{
    segment s;
    const real *weight = (const real *)job->weight, *bias = (const real *)job->bias;
    ptrdiff_t own = c - job->first;

    s.first = c;
    s.width = least(LL_BLOCK, job->last - c);
    s.vecs = vectors(s.width);
    memset(w->bias, 0, LL_BLOCK * sizeof(real));
    if (bias)
        memcpy(w->bias, bias + own, (size_t)s.width * sizeof(real));
    if (weight)
        weight += own * (job->packed ? job->k : job->w_row);

    if (weight && job->n <= LL_SMALL_N) {
        score_few(job, weight, &s, w);
        return;
    }
    for (ptrdiff_t i = 0; i < job->rows; i += w->tile_rows) {
        ptrdiff_t rows = least(w->tile_rows, job->rows - i);
        if (job->keep)
            w->tile = kept_tile(job, c) + i * w->tile_row;
        if (job->logits)
            copy_logits(job, i, rows, c, s.width, w);
        else if (job->rows <= LL_MR && !job->packed && job->w_col == 1)
            product_of_few(job, weight, s.width, w);
        else
            product(job, i, rows, weight, s.width, job->last - c, w);
        s.z = w->tile;
        fold_rows(job, i, rows, &s, w);
    }
}

static void score(const ll_job *job)
{
    workspace w = lay_out(job);
    const int merges = has_spans(job);

    if (!merges) /* the only span is all there is */
        w.span = job->state;
    for (ptrdiff_t c = job->first; c < job->last; c += LL_BLOCK) {
        if (merges && c % LL_SPAN == 0)
            init_rows(job, &w.span);
        score_block(job, c, &w);
        if (merges && ((c + LL_BLOCK) % LL_SPAN == 0 || c + LL_BLOCK >= job->n))
            merge_rows(job, &w.span);
    }
}

/* Logits of one target a row, before the pass that compares others with them; `first` is 0 and x is
 * not packed. Of a row without a target, any. */
static void target_logits(const ll_job *job)
{
    const real *weight = job->weight, *bias = job->bias, *logits = job->logits;
    const ptrdiff_t step = job->packed ? LL_LANES : job->w_col;

    for (ptrdiff_t i = 0; i < job->rows; i += LL_LANES) {
        const real *x[LL_LANES], *w[LL_LANES];
        real logit[LL_LANES], shift[LL_LANES];

        for (ptrdiff_t r = 0; r < LL_LANES; r++) {
            const ptrdiff_t row = least(i + r, job->rows - 1);
            const int64_t target = job->targets[row * job->n_targets], c = target < 0 ? 0 : target;

            shift[r] = bias ? bias[c] : 0;
            if (logits) {
                logit[r] = logits[row * job->z_row + c * job->z_col];
                continue;
            }
            x[r] = (const real *)job->x + row * job->x_row;
            w[r] = weight + (job->packed ? c / LL_LANES * LL_LANES * job->k + c % LL_LANES
                                         : c * job->w_row);
        }
        if (!logits)
            vstore(logit, vadd(pair_chains(job->k, x, w, step), vload(shift)));
        transform(job, logit, 1);
        for (ptrdiff_t r = 0; r < least(LL_LANES, job->rows - i); r++)
            ((real *)job->state.target_logit)[(i + r) * job->n_targets] = logit[r];
    }
}
