/* Derivatives that a filter has kept.
 *
 * A derivative that is 0 or below the limit of its row is dropped, whatever stands beside it. Of a
 * row and LL_KC classes, few are left as a rule: then they are a list, of pairs of class and
 * derivative, and a product with them goes through the list. Otherwise the row is dense: what is
 * dropped is 0 there, and takes part in products as 0. Which it is depends on the row alone.
 *
 * Of a step of rows each LL_KC classes have room for rows * LL_KC reals, one chunk after the other:
 * first a list for each row that has one, LL_KC reals apart, then the dense rows as micro-panels.
 * Behind the chunks there are the lengths of all rows.
 */

/* One chunk of a step of rows. */
typedef struct {
    real *lengths;    /* derivatives of each row that are kept */
    real *lists;      /* of the rows that have one, in turn */
    real *panels;     /* the others */
    ptrdiff_t rows, dense, kc;
} kept_chunk;

/* Whether a part of `all` that may be this large is taken by itself, link by link. */
static inline int is_sparse(ptrdiff_t part, ptrdiff_t all) { return part * LL_SPARSE <= all; }

/* The chunk q of a block of `width` classes, of rows [i, i + rows), a step, of a tile. */
static kept_chunk chunk_at(real *tile, ptrdiff_t row, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t q,
                           ptrdiff_t width)
{
    kept_chunk chunk = { .rows = rows, .kc = least(LL_KC, width - q * LL_KC) };
    real *step = tile + i * row;

    chunk.lengths = step + rows * (row - LL_LANES) + q * rows;
    chunk.lists = step + q * LL_KC * rows;
    return chunk;
}

static inline int is_list(const kept_chunk *chunk, ptrdiff_t r)
{
    return is_sparse((ptrdiff_t)chunk->lengths[r], chunk->kc);
}

/* Finds where the dense rows are, whose lengths are known. */
static void split(kept_chunk *chunk)
{
    chunk->dense = 0;
    for (ptrdiff_t r = 0; r < chunk->rows; r++)
        chunk->dense += !is_list(chunk, r);
    chunk->panels = chunk->lists + (chunk->rows - chunk->dense) * chunk->kc;
}

/* ---- in ----------------------------------------------------------------------------------- */

/* Of `count` entries those below the limit become 0, and others up to a whole vector. How many are
 * left; a NaN is. */
static ptrdiff_t drop_small(real limit, ptrdiff_t count, real *g)
{
    vec left = vset(0);

    if (count % LL_LANES)
        vstore(g + count / LL_LANES * LL_LANES, gather(g + count / LL_LANES * LL_LANES, 1,
                                                       count % LL_LANES));
    for (ptrdiff_t c = 0; c < count; c += LL_LANES) {
        vec gc = vload(g + c);
        mask dropped = mor(vlt(vabs(gc), vset(limit)), veq(gc, vset(0)));
        left = vadd(left, vselect(dropped, vset(0), vset(1)));
        vstore(g + c, vselect(dropped, vset(0), gc));
    }
    return (ptrdiff_t)vsum(left);
}

/* Pairs of class and derivative, of those that are not 0; how many. */
static ptrdiff_t list_entries(const real *g, ptrdiff_t count, real *list)
{
    const unsigned all = (1u << LL_LANES) - 1;
    ptrdiff_t length = 0;

    for (ptrdiff_t c = 0; c < count; c += LL_LANES)
        for (unsigned bits = all & ~mbits(veq(gather(g + c, 1, count - c), vset(0))); bits;
             bits &= bits - 1, length++) {
            ptrdiff_t at = c + lowest_bit(bits);
            list[2 * length] = (real)at;
            list[2 * length + 1] = g[at];
        }
    return length;
}

/* Dense rows of G, moved together, become micro-panels. */
static void keep_dense(const kept_chunk *chunk, real *g, ptrdiff_t g_row)
{
    for (ptrdiff_t r = 0, to = 0; to < chunk->dense; r++)
        if (!is_list(chunk, r)) {
            if (to != r)
                memcpy(g + to * g_row, g + r * g_row, (size_t)chunk->kc * sizeof(real));
            to++;
        }
    for (ptrdiff_t r = 0, height; r < chunk->dense; r += height) {
        height = panel_height(r, chunk->dense);
        interleave(g + r * g_row, g_row, height, chunk->kc, height, chunk->panels + r * chunk->kc,
                   LL_KC);
    }
}

/* G of rows [i, i + rows), at most a step, goes filtered into the place of their logits. */
static void keep_filtered(const ll_gradient *grad, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t width,
                          real *tile, const gradient_space *w)
{
    real lengths[LL_CHUNKS * LL_GROUP_STEP], *next = lengths; /* micro-panels spill over theirs */

    for (ptrdiff_t q = 0; q * LL_KC < width; q++, next += rows) {
        kept_chunk chunk = chunk_at(tile, w->g_row, i, rows, q, width);
        real *g = w->g + q * LL_KC, *list = chunk.lists;
        chunk.lengths = next;
        for (ptrdiff_t r = 0; r < rows; r++)
            next[r] = left_out(grad, i + r) ? 0 : (real)drop_small(
                coefficient(grad, LL_LIMIT, i + r), chunk.kc, g + r * w->g_row);
        split(&chunk);
        for (ptrdiff_t r = 0; r < rows; r++)
            if (is_list(&chunk, r)) {
                if (next[r] != 0)
                    list_entries(g + r * w->g_row, chunk.kc, list);
                list += chunk.kc;
            }
        keep_dense(&chunk, g, w->g_row);
    }
    memcpy(chunk_at(tile, w->g_row, i, rows, 0, width).lengths, lengths,
           (size_t)(next - lengths) * sizeof(real));
}

/* ---- out ---------------------------------------------------------------------------------- */

/* A dense row, the d-th of them. */
static void read_dense(const kept_chunk *chunk, ptrdiff_t d, real *g)
{
    ptrdiff_t r = 0, height = panel_height(0, chunk->dense);

    for (; r + height <= d; height = panel_height(r, chunk->dense))
        r += height;
    for (ptrdiff_t c = 0; c < chunk->kc; c++)
        g[c] = chunk->panels[r * chunk->kc + c * height + d - r];
}

/* Dense rows, each to where `row` has it: LL_SQUARE of them at a time, as interleave. */
static void read_all_dense(const kept_chunk *chunk, real *const *row)
{
    const real *from[LL_SQUARE];
    reg square[LL_SQUARE];

    for (ptrdiff_t r = 0, height; r < chunk->dense; r += height) {
        const real *panel = chunk->panels + r * chunk->kc;
        height = panel_height(r, chunk->dense);
        for (ptrdiff_t c = 0; c < chunk->kc; c += LL_SQUARE)
            for (ptrdiff_t i = 0; i < height; i += LL_SQUARE) {
                for (ptrdiff_t j = 0; j < LL_SQUARE; j++)
                    from[j] = panel + least(c + j, chunk->kc - 1) * height;
                rtranspose(from, i, square);
                for (ptrdiff_t j = 0; j < least(LL_SQUARE, height - i); j++)
                    rstore(row[r + i + j] + c, square[j]);
            }
    }
}

/* G of a step as rows again. */
static void read_filtered(real *tile, ptrdiff_t i, ptrdiff_t rows, ptrdiff_t width,
                          const gradient_space *w)
{
    for (ptrdiff_t q = 0; q * LL_KC < width; q++) {
        kept_chunk chunk = chunk_at(tile, w->g_row, i, rows, q, width);
        const real *list = chunk.lists;
        real *g = w->g + q * LL_KC, *dense[LL_GROUP_STEP];
        ptrdiff_t n_dense = 0;

        for (ptrdiff_t r = 0; r < rows; r++, g += w->g_row)
            if (is_list(&chunk, r)) {
                memset(g, 0, (size_t)chunk.kc * sizeof(real));
                for (ptrdiff_t e = 0; e < (ptrdiff_t)chunk.lengths[r]; e++)
                    g[(ptrdiff_t)list[2 * e]] = list[2 * e + 1];
                list += chunk.kc;
            } else
                dense[n_dense++] = g;
        split(&chunk);
        read_all_dense(&chunk, dense);
    }
}
