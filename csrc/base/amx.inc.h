/* Products of tiles: what those of bfloat16 and of bytes have in common in AMX. Included after LL_AMX,
 * the vocabulary, and LL_AMX_DOT, its product.
 *
 * A register is up to 16 rows of 64 bytes: of sums of 16 classes; of a step of features of 16 rows;
 * of the same step of 16 classes, four bytes of each side by side. */
#include LL_AMX

#define LL_AMX_TILE (LL_AMX_ROWS * LL_AMX_BYTES)
#define LL_AMX_PANELS 4 /* of classes that stay in L2 while all rows pass by */

/* What the processor is set to, and what the caller had set. */
typedef struct {
    amx_config before, now;
} amx_mode;

static inline void amx_begin(amx_mode *mode)
{
    memset(&mode->now, 0, sizeof mode->now);
    amx_save(&mode->before);
}

static inline void amx_end(const amx_mode *mode)
{
    if (mode->before.palette)
        amx_configure(&mode->before);
    else
        amx_release();
}

/* Registers: sums 0 to 3, rows 4 and 5, weights 6 and 7. So many rows `above` and `below`: the first
 * are those of sums 0 and 1, the others those of 2 and 3. */
static inline void amx_shape(amx_mode *mode, ptrdiff_t above, ptrdiff_t below)
{
    const ptrdiff_t rows[8] = { above, above, below, below, above, below, LL_AMX_ROWS, LL_AMX_ROWS };

    if (mode->now.rows[0] == above && mode->now.rows[2] == below)
        return;
    mode->now.palette = 1;
    for (int t = 0; t < 8; t++) {
        mode->now.bytes[t] = LL_AMX_BYTES;
        mode->now.rows[t] = (uint8_t)rows[t];
    }
    amx_configure(&mode->now);
}

/* Rows by panels of classes. Distances are in bytes. */
typedef struct {
    ptrdiff_t rows, panels;
    /* Blocks of LL_AMX_ROWS packed rows, the last perhaps of fewer: step by step, LL_AMX_BYTES of each
     * row. a_row is what a row takes; `skip` steps come before. */
    const char *a;
    ptrdiff_t a_row, skip;
    ptrdiff_t steps;           /* whole ones, ... */
    ptrdiff_t tail;            /* ... and so many bytes of a panel behind them, part of a step */
    const char *b;             /* step by step, LL_AMX_TILE of each panel */
    ptrdiff_t b_panel;
    const void *start;         /* sums to begin with; or NULL */
    ptrdiff_t start_row, start_panel;
    char *sums;                /* a panel's follow those of the one before */
    ptrdiff_t row;
    /* What comes into L2 meanwhile: with every LL_AMX_PANELS so many bytes. */
    const char *next;
    ptrdiff_t share;
    ptrdiff_t lines;           /* of the cache, each step: by amx_multiply */
} amx_product;

/* One step of one or two blocks of rows by one or two panels, or one by four. */
LL_TEMPLATE void amx_step(const int height, const int width, const char *above, const char *below,
                          const char *b, ptrdiff_t b_panel)
{
    amx_load(4, above, LL_AMX_BYTES);
    amx_load(6, b, LL_AMX_BYTES);
    LL_AMX_DOT(0, 4, 6);
    if (width > 1) {
        amx_load(7, b + b_panel, LL_AMX_BYTES);
        LL_AMX_DOT(1, 4, 7);
    }
    if (height > 1) {
        amx_load(5, below, LL_AMX_BYTES);
        LL_AMX_DOT(2, 5, 6);
        if (width > 1)
            LL_AMX_DOT(3, 5, 7);
    }
    if (width > 2) {
        amx_load(6, b + 2 * b_panel, LL_AMX_BYTES);
        LL_AMX_DOT(2, 4, 6);
        amx_load(7, b + 3 * b_panel, LL_AMX_BYTES);
        LL_AMX_DOT(3, 4, 7);
    }
}

/* Sums to begin with, or zeros. */
LL_TEMPLATE void amx_start(const int height, const int width, const char *start, ptrdiff_t row,
                           ptrdiff_t panel)
{
    const char *second = height > 1 ? start + LL_AMX_ROWS * row : start + 2 * panel;
    const int all = height * width == 4;

    amx_load(0, start, row);
    if (width > 1)
        amx_load(1, start + panel, row);
    if (height > 1 || all)
        amx_load(2, second, row);
    if (all)
        amx_load(3, second + panel, row);
}

LL_TEMPLATE void amx_finish(const int height, const int width, char *sums, ptrdiff_t row)
{
    char *second = height > 1 ? sums + LL_AMX_ROWS * row : sums + 2 * LL_AMX_BYTES;
    const int all = height * width == 4;

    amx_store(0, sums, row);
    if (width > 1)
        amx_store(1, sums + LL_AMX_BYTES, row);
    if (height > 1 || all)
        amx_store(2, second, row);
    if (all)
        amx_store(3, second + LL_AMX_BYTES, row);
}

/* Rows i, ... by panels j, ...; `tails` are the last steps of these. */
LL_TEMPLATE void amx_kernel(const int height, const int width, amx_product *p, ptrdiff_t i,
                            ptrdiff_t j, const char *tails)
{
    const ptrdiff_t i_below = height > 1 ? i + LL_AMX_ROWS : i;
    const ptrdiff_t above_step = least(LL_AMX_ROWS, p->rows - i) * LL_AMX_BYTES;
    const ptrdiff_t below_step = least(LL_AMX_ROWS, p->rows - i_below) * LL_AMX_BYTES;
    const char *above = p->a + i * p->a_row + p->skip * above_step;
    const char *below = p->a + i_below * p->a_row + p->skip * below_step;
    const char *b = p->b + j * p->b_panel, *next = p->next;
    const ptrdiff_t b_panel = p->b_panel, lines = p->lines;

    if (p->start)
        amx_start(height, width,
                  (const char *)p->start + i * p->start_row + j * p->start_panel, p->start_row,
                  p->start_panel);
    else {
        amx_zero(0);
        amx_zero(1);
        amx_zero(2);
        amx_zero(3);
    }
    LL_ROLLED
    for (ptrdiff_t s = p->steps; s > 0; s--) {
        LL_ROLLED
        for (ptrdiff_t l = lines; l > 0; l--, next += 64)
            prefetch_to_l2(next);
        amx_step(height, width, above, below, b, b_panel);
        above += above_step;
        below += below_step;
        b += LL_AMX_TILE;
    }
    p->next = next;
    if (p->tail)
        amx_step(height, width, above, below, tails, LL_AMX_TILE);
    amx_finish(height, width, p->sums + i * p->row + j * LL_AMX_BYTES, p->row);
}

typedef void amx_function(amx_product *, ptrdiff_t, ptrdiff_t, const char *);
#define LL_AMX_OF(height, width)                                                                 \
    static void amx_##height##_##width(amx_product *p, ptrdiff_t i, ptrdiff_t j,                 \
                                       const char *tails)                                        \
    {                                                                                            \
        amx_kernel(height, width, p, i, j, tails);                                               \
    }
LL_AMX_OF(1, 1)
LL_AMX_OF(1, 2)
LL_AMX_OF(1, 4)
LL_AMX_OF(2, 1)
LL_AMX_OF(2, 2)
static amx_function *const amx_functions[2][LL_AMX_PANELS] = {
    { amx_1_1, amx_1_2, NULL, amx_1_4 },
    { amx_2_1, amx_2_2 },
};

/* Panels j, ..., up to LL_AMX_PANELS, by all rows: pairs of blocks, then what is left of them. */
static void amx_panels(amx_product *p, ptrdiff_t j, ptrdiff_t panels, const char *tails,
                       amx_mode *mode)
{
    const ptrdiff_t pair = 2 * LL_AMX_ROWS;

    for (ptrdiff_t i = 0, rows; i < p->rows; i += rows) {
        rows = p->rows - i < pair ? p->rows - i : (p->rows - i) / pair * pair;
        const int height = rows > LL_AMX_ROWS ? 2 : 1;
        const ptrdiff_t above = least(LL_AMX_ROWS, rows);
        amx_shape(mode, above, height > 1 ? least(LL_AMX_ROWS, rows - above) : above);
        for (ptrdiff_t v = 0, width = LL_AMX_PANELS / height; v < panels; v += width) {
            while (width > panels - v)
                width /= 2;
            for (ptrdiff_t r = i; r < i + rows; r += pair)
                amx_functions[height - 1][width - 1](p, r, j + v, tails + v * LL_AMX_TILE);
        }
    }
}

/* Panels behind whose last whole step not all can be read: the rest of it, and zeros. */
static void amx_tails(const amx_product *p, ptrdiff_t j, ptrdiff_t panels, char *tails)
{
    memset(tails, 0, LL_AMX_PANELS * LL_AMX_TILE);
    for (ptrdiff_t v = 0; v < panels; v++)
        memcpy(tails + v * LL_AMX_TILE, p->b + (j + v) * p->b_panel + p->steps * LL_AMX_TILE,
               (size_t)p->tail);
}

/* Steps that LL_AMX_PANELS and all rows take. */
static inline ptrdiff_t amx_steps(const amx_product *p)
{
    const ptrdiff_t blocks = (p->rows + LL_AMX_ROWS - 1) / LL_AMX_ROWS;
    return p->steps * blocks;
}

static void amx_multiply(amx_product *p, amx_mode *mode)
{
    _Alignas(64) char tails[LL_AMX_PANELS * LL_AMX_TILE];
    const char *next = p->next;

    p->lines = p->steps ? p->share / 64 / amx_steps(p) + 1 : 0;
    for (ptrdiff_t j = 0, panels; j < p->panels; j += panels, next += p->share) {
        panels = least(LL_AMX_PANELS, p->panels - j);
        p->next = next;
        if (p->tail)
            amx_tails(p, j, panels, tails);
        amx_panels(p, j, panels, tails, mode);
    }
}

/* All sums that there are registers for, with as many features to a product: a load, to measure the
 * peak. Returns the operations. */
static double amx_spin(ptrdiff_t rounds, ptrdiff_t features)
{
    char some[LL_AMX_TILE];
    amx_mode mode;

    memset(some, 0x3f, sizeof some);
    amx_begin(&mode);
    amx_shape(&mode, LL_AMX_ROWS, LL_AMX_ROWS);
    amx_load(4, some, LL_AMX_BYTES);
    amx_load(5, some, LL_AMX_BYTES);
    amx_load(6, some, LL_AMX_BYTES);
    amx_load(7, some, LL_AMX_BYTES);
    for (ptrdiff_t r = 0; r < rounds; r++) {
        LL_AMX_DOT(0, 4, 6);
        LL_AMX_DOT(1, 4, 7);
        LL_AMX_DOT(2, 5, 6);
        LL_AMX_DOT(3, 5, 7);
    }
    amx_end(&mode);
    return 4.0 * 2 * LL_AMX_ROWS * LL_AMX_BYTES / 4 * (double)features * (double)rounds;
}
