/* The product: micro-kernel and the loops around it.
 *
 * One logit is a chain of fused multiply-adds over KC features in ascending order, started from
 * zero; the chains' results are added in ascending order, then the bias. The micro-kernel holds
 * `height` rows by `width` vectors of classes in registers:
 *
 *                 b panels: width * LL_LANES classes
 *                 p -> |b b b b|b b b b|
 *       a micro-    ---+---------------+
 *       panel:    a a  | accumulators  |  -> tile, row by row
 *       height    a a  |               |
 *       rows      a a  +---------------+
 */

/* Where the sums go: `first` starts the logit, `bias` (or NULL) ends it. */
LL_TEMPLATE void store_sums(const int height, const int width, vec sum[LL_MR][LL_WIDE], real *c,
                            ptrdiff_t c_row, const int first, const real *bias)
{
    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++) {
            real *z = c + i * c_row + j * LL_LANES;
            vec logit = first ? sum[i][j] : vadd(vload(z), sum[i][j]);
            vstore(z, bias ? vadd(logit, vload(bias + j * LL_LANES)) : logit);
        }
}

/* One feature: height by width multiply-adds. */
LL_TEMPLATE void micro_step(const int height, const int width, vec sum[LL_MR][LL_WIDE],
                            const real *a, const real *b, ptrdiff_t b_panel)
{
    vec bj[LL_WIDE];

    LL_UNROLL
    for (int j = 0; j < width; j++)
        bj[j] = vload(b + j * b_panel);
    LL_UNROLL
    for (int i = 0; i < height; i++) {
        vec ai = vset(a[i]);
        LL_UNROLL
        for (int j = 0; j < width; j++)
            sum[i][j] = vfma(ai, bj[j], sum[i][j]);
    }
}

/* All features; b panels are prefetched LL_B_AHEAD features ahead, past the end into those that
 * follow. The loops are not unrolled further: the compiler would move loads until the accumulators
 * no longer fit into the registers. */
LL_TEMPLATE void steps(const int height, const int width, vec sum[LL_MR][LL_WIDE], ptrdiff_t kc,
                       const real *a, const real *b, ptrdiff_t b_panel)
{
    ptrdiff_t p = 0;

    LL_ROLLED
    for (; p + LL_STEPS <= kc; p += LL_STEPS) {
        LL_UNROLL
        for (int q = 0; q < LL_STEPS; q++)
            LL_UNROLL
            for (int j = 0; j < width; j++)
                prefetch(b + j * b_panel + (p + q + LL_B_AHEAD) * LL_LANES);
        LL_UNROLL
        for (int q = 0; q < LL_STEPS; q++)
            micro_step(height, width, sum, a + (p + q) * height, b + (p + q) * LL_LANES, b_panel);
    }
    LL_ROLLED
    for (; p < kc; p++)
        micro_step(height, width, sum, a + p * height, b + p * LL_LANES, b_panel);
}

/* The same of few rows, whose weights come from memory: they are fetched far ahead, LL_LANES
 * features at once. */
LL_TEMPLATE void streamed_steps(const int height, const int width, vec sum[LL_MR][LL_WIDE],
                                ptrdiff_t kc, const real *a, const real *b, ptrdiff_t b_panel)
{
    ptrdiff_t p = 0;

    LL_ROLLED
    for (; p + LL_LANES <= kc; p += LL_LANES) {
        LL_UNROLL
        for (int q = 0; q < LL_LANES; q++)
            prefetch_to_l2(b + (p + q + LL_STREAM_AHEAD) * LL_LANES);
        LL_UNROLL
        for (int q = 0; q < LL_LANES; q++)
            micro_step(height, width, sum, a + (p + q) * height, b + (p + q) * LL_LANES, b_panel);
    }
    LL_ROLLED
    for (; p < kc; p++)
        micro_step(height, width, sum, a + p * height, b + p * LL_LANES, b_panel);
}

LL_TEMPLATE void micro_kernel(const int height, const int width, const int streamed, ptrdiff_t kc,
                              const real *a, const real *b, ptrdiff_t b_panel, real *c,
                              ptrdiff_t c_row, int first, const real *bias)
{
    vec sum[LL_MR][LL_WIDE];

    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++)
            sum[i][j] = vset(0);
    if (streamed)
        streamed_steps(height, width, sum, kc, a, b, b_panel);
    else
        steps(height, width, sum, kc, a, b, b_panel);
    if (first && bias)
        store_sums(height, width, sum, c, c_row, 1, bias);
    else if (first)
        store_sums(height, width, sum, c, c_row, 1, NULL);
    else if (bias)
        store_sums(height, width, sum, c, c_row, 0, bias);
    else
        store_sums(height, width, sum, c, c_row, 0, NULL);
}

/* One function a shape: the compiler keeps its accumulators in registers. */
typedef void micro_function(ptrdiff_t, const real *, const real *, ptrdiff_t, real *, ptrdiff_t,
                            int, const real *);
#define LL_MICRO_OF(name, height, width, streamed)                                               \
    static void name(ptrdiff_t kc, const real *a, const real *b, ptrdiff_t b_panel, real *c,    \
                     ptrdiff_t c_row, int first, const real *bias)                               \
    {                                                                                            \
        micro_kernel(height, width, streamed, kc, a, b, b_panel, c, c_row, first, bias);         \
    }
#define LL_MICRO(height, width) LL_MICRO_OF(micro_##height##_##width, height, width, 0)
#define LL_MICRO_NAME(height, width) micro_##height##_##width,
#define LL_STREAMED(height, width) LL_MICRO_OF(streamed_##height##_##width, height, width, 1)
#define LL_STREAMED_NAME(height, width) streamed_##height##_##width,
#define LL_HEIGHTS(of, width) LL_JOIN(LL_UP_TO, LL_MR)(of, width)

LL_HEIGHTS(LL_MICRO, 1)
#if LL_NV == 2
LL_HEIGHTS(LL_MICRO, 2)
#else /* few rows: more panels side by side */
LL_MICRO(1, 2)
LL_MICRO(2, 2)
LL_MICRO(1, 4)
#endif
LL_HEIGHTS(LL_STREAMED, 1)

static micro_function *const micro_functions[][LL_MR] = {
    { LL_HEIGHTS(LL_MICRO_NAME, 1) },
#if LL_NV == 2
    { LL_HEIGHTS(LL_MICRO_NAME, 2) },
#else
    { micro_1_2, micro_2_2 },
    { NULL },
    { micro_1_4 },
#endif
};

static micro_function *const streamed_functions[LL_MR] = { LL_HEIGHTS(LL_STREAMED_NAME, 1) };

/* Panels that a micro-kernel of this height takes at most. */
static inline ptrdiff_t most_width(ptrdiff_t height)
{
    return LL_WIDE / height > LL_NV ? LL_WIDE / height : LL_NV;
}

/* The widest micro-kernel there is for `left` panels: 4, 2 or 1. */
static inline ptrdiff_t micro_width(ptrdiff_t height, ptrdiff_t left)
{
    ptrdiff_t width = most_width(height);
    while (width > left)
        width /= 2;
    return width;
}

static inline micro_function *micro_for(ptrdiff_t height, ptrdiff_t width)
{
    return micro_functions[width - 1][height - 1];
}

/* What is needed next: brought into the cache while the product goes on. */
typedef struct {
    const char *at;
    ptrdiff_t rows, row, width; /* in bytes from a row to the next, and of a row */
} region;

static inline void prefetch_rows(const region *next, ptrdiff_t from, ptrdiff_t to)
{
    for (ptrdiff_t r = from; r < to; r++)
        for (ptrdiff_t j = 0; j < next->width; j += LL_LANES * (ptrdiff_t)sizeof(real))
            prefetch_to_l2(next->at + r * next->row + j);
}

/* The part of it that is due with rows [i, i + height) of `of`. */
static inline void prefetch_part(const region *next, ptrdiff_t i, ptrdiff_t height, ptrdiff_t of)
{
    if (next->rows)
        prefetch_rows(next, next->rows * i / of, next->rows * (i + height) / of);
}

/* KC features: `rows` packed rows by `panels` panels of classes into the tile. Each panel stays in
 * L1 while all rows pass by. */
static void multiply(ptrdiff_t rows, ptrdiff_t panels, ptrdiff_t kc, const real *a, const real *b,
                     ptrdiff_t b_panel, real *tile, ptrdiff_t t_row, int first, const real *bias,
                     const region *next)
{
    ptrdiff_t share = (next->rows * LL_MR + rows - 1) / rows, at = 0;

    for (ptrdiff_t j = 0, width; j < panels; j += width, b += width * b_panel) {
        width = micro_width(least(rows, LL_MR), panels - j);
        for (ptrdiff_t i = 0, height; i < rows; i += height) {
            height = panel_height(i, rows);
            prefetch_rows(next, at, least(at + share, next->rows));
            at += share;
            micro_for(height, width)(kc, a + i * kc, b, b_panel, tile + i * t_row + j * LL_LANES,
                                     t_row, first, bias ? bias + j * LL_LANES : NULL);
        }
    }
}

static inline int is_streamed(ptrdiff_t rows)
{
    return rows >= LL_STREAM_LEAST && rows <= LL_STREAM_MOST;
}

/* The same of few rows and one panel. */
static void multiply_streamed(ptrdiff_t rows, ptrdiff_t kc, const real *a, const real *b,
                              real *tile, ptrdiff_t t_row, int first, const real *bias)
{
    for (ptrdiff_t i = 0, height; i < rows; i += height) {
        height = panel_height(i, rows);
        streamed_functions[height - 1](kc, a + i * kc, b, 0, tile + i * t_row, t_row, first, bias);
    }
}
