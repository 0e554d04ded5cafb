/* The memory of a pass: a tile of logits, weights packed on the way, the state of a span. */

typedef struct {
    ll_state span;
    real *bias, *panels, *tile;
    ll_excluded alike; /* classes of the block that all rows exclude */
    real *marks;
    real *turned, *z; /* features and logits of rows that are lanes, */
    ptrdiff_t z_panel; /* from a vector of them to the next */
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
    const ll_output *output = &job->output;

    return (real *)output->keep
         + (c - output->keep_first) / LL_BLOCK * output->keep_rows * tile_row(job->n);
}

/* Few classes: chains; weights for these; weights and rows transposed. */
static ptrdiff_t few_size(ptrdiff_t n, ptrdiff_t k)
{
    return LL_SMALL_N * LL_DOT_CLASS + n * vectors(k) * LL_LANES
         + (is_transposed(n, k) ? (n + LL_LANES) * LL_TRANSPOSED_K : 0);
}

/* Few classes have an order of their own; sparse rows follow it where tiles are made. */
static inline int is_few(const ll_job *job)
{
    const ll_product *p = &job->product;
    return job->n <= LL_SMALL_N && !p->logits && !p->bf16 && !p->x_start;
}

/* Rows are read where they are, and lanes are rows. */
static inline int goes_unpacked(const ll_job *job)
{
    const ll_product *p = &job->product;
    return !p->x_packed && !is_few(job) && !p->logits && !p->bf16 && !p->x_start;
}

/* Weights that are packed or widened on the way; or what few classes need. */
static ptrdiff_t panels_size(const ll_job *job)
{
    const ll_product *p = &job->product;
    const ptrdiff_t classes = vectors(least(job->n, LL_BLOCK)) * LL_LANES;

    if (p->x_start)
        return p->x_panels ? p->k * LL_LANES : 0;
    if (is_few(job))
        return few_size(job->n, p->k);
    if (p->logits || in_panels(p) || (p->packed && p->bf16))
        return 0;
    if (goes_unpacked(job))
        return classes * (p->k + 1);
    return (p->packed ? LL_NV * LL_LANES : LL_BLOCK) * (least(LL_KC, p->k) + 1);
}

/* Rows to a tile. Products of bfloat16 take their rows from a multiple of LL_TILE_ROWS on. */
static inline ptrdiff_t rows_to_tile(const ll_product *p)
{
    if (p->x_start)
        return LL_SPARSE_TILE_ROWS;
    return p->packed && !p->bf16 ? LL_PACKED_TILE_ROWS : LL_TILE_ROWS;
}

/* Unpacked weights are packed KC features at a time, once for all rows, so the tile then holds
 * all rows; otherwise a tile is finished before the next is begun. */
static workspace lay_out(const ll_job *job)
{
    const ll_product *p = &job->product;
    const ll_output *output = &job->output;
    workspace w = { .span = output->state };
    int few = is_few(job), unpacked = goes_unpacked(job);
    ptrdiff_t stride = vectors(job->rows) * LL_LANES;
    ptrdiff_t ints = LL_VALUES * stride;
    ptrdiff_t bias = ints + LL_INTS * stride * (ptrdiff_t)(sizeof(int64_t) / sizeof(real));
    ptrdiff_t marks = bias + LL_BLOCK, panels = marks + LL_BLOCK;
    ptrdiff_t turned = panels + panels_size(job);
    ptrdiff_t z = turned + (unpacked ? LL_NV * LL_LANES * LL_KC : 0), tile;
    real *scratch = job->scratch;

    w.z_panel = vectors(least(job->n, LL_BLOCK)) * LL_LANES * LL_LANES;
    tile = z + (unpacked ? LL_NV * w.z_panel : 0);
    w.tile_rows = p->x_panels
                          || (!few && !unpacked && !p->logits && !p->packed && !p->x_start
                              && p->k > LL_KC)
                    ? job->rows
                    : least(few || unpacked ? LL_LANES : rows_to_tile(p), job->rows);
    w.tile_row = few && !output->keep ? vectors(job->n) * LL_LANES : tile_row(job->n);
    w.bytes = (size_t)(tile + (output->keep ? 0 : w.tile_rows * w.tile_row)) * sizeof(real);
    if (!scratch) /* only the size is wanted */
        return w;
    w.span.stride = stride;
    w.span.values = scratch;
    w.span.ints = (int64_t *)(void *)(scratch + ints);
    w.bias = scratch + bias;
    w.marks = scratch + marks;
    w.panels = scratch + panels;
    w.turned = scratch + turned;
    w.z = scratch + z;
    w.tile = scratch + tile;
    return w;
}

static size_t scratch_bytes(const ll_job *job) { return lay_out(job).bytes; }
