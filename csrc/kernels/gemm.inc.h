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
LL_TEMPLATE void store_sums(const int height, const int width, vec sum[LL_MR][LL_NV], real *c,
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

/* b panels are prefetched this many features ahead, past the end into the panels that follow: with
 * few rows they come from memory at the rate of the product. */
#define LL_B_AHEAD 64

LL_TEMPLATE void micro_kernel(const int height, const int width, ptrdiff_t kc, const real *a,
                              const real *b, ptrdiff_t b_panel, real *c, ptrdiff_t c_row,
                              int first, const real *bias)
{
    vec sum[LL_MR][LL_NV];

    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++)
            sum[i][j] = vset(0);
    for (ptrdiff_t p = 0; p < kc; p++) {
        vec bj[LL_NV];
        LL_UNROLL
        for (int j = 0; j < width; j++) {
            prefetch(b + j * b_panel + (p + LL_B_AHEAD) * LL_LANES);
            bj[j] = vload(b + j * b_panel + p * LL_LANES);
        }
        LL_UNROLL
        for (int i = 0; i < height; i++) {
            vec ai = vset(a[p * height + i]);
            LL_UNROLL
            for (int j = 0; j < width; j++)
                sum[i][j] = vfma(ai, bj[j], sum[i][j]);
        }
    }
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
#define LL_MICRO(height, width)                                                                  \
    static void micro_##height##_##width(ptrdiff_t kc, const real *a, const real *b,             \
                                         ptrdiff_t b_panel, real *c, ptrdiff_t c_row, int first, \
                                         const real *bias)                                       \
    {                                                                                            \
        micro_kernel(height, width, kc, a, b, b_panel, c, c_row, first, bias);                   \
    }
typedef void micro_function(ptrdiff_t, const real *, const real *, ptrdiff_t, real *, ptrdiff_t,
                            int, const real *);
LL_MICRO(1, 1)
LL_MICRO(2, 1)
LL_MICRO(4, 1)
#if LL_MR == 6
LL_MICRO(6, 1)
#elif LL_MR == 12
LL_MICRO(8, 1)
LL_MICRO(12, 1)
#endif
#if LL_NV == 2
LL_MICRO(1, 2)
LL_MICRO(2, 2)
LL_MICRO(4, 2)
LL_MICRO(8, 2)
LL_MICRO(12, 2)
#endif

static inline micro_function *micro_for(ptrdiff_t height, ptrdiff_t width)
{
#if LL_NV == 2
    if (width == 2)
        return height == 12 ? micro_12_2 : height == 8 ? micro_8_2 : height == 4 ? micro_4_2
             : height == 2 ? micro_2_2 : micro_1_2;
#endif
    (void)width;
#if LL_MR == 12
    if (height >= 8)
        return height == 12 ? micro_12_1 : micro_8_1;
#elif LL_MR == 6
    if (height == 6)
        return micro_6_1;
#endif
    return height == 4 ? micro_4_1 : height == 2 ? micro_2_1 : micro_1_1;
}

/* What is to be packed next: brought into the cache while the product goes on. */
typedef struct {
    const real *at;
    ptrdiff_t rows, row, width;
} region;

/* The part of it that is due with rows [i, i + height) of `of`. */
static inline void prefetch_part(const region *next, ptrdiff_t i, ptrdiff_t height, ptrdiff_t of)
{
    if (next->rows == 0) /* sparing the divisions */
        return;
    ptrdiff_t end = next->rows * (i + height) / of;

    for (ptrdiff_t r = next->rows * i / of; r < end; r++)
        for (ptrdiff_t j = 0; j < next->width; j += LL_LANES)
            prefetch(next->at + r * next->row + j);
}

/* KC features: `rows` packed rows by `width` panels of classes into the tile. The b panels stay in
 * L1 while all rows pass by. */
static void multiply(ptrdiff_t rows, ptrdiff_t width, ptrdiff_t kc, const real *a, const real *b,
                     ptrdiff_t b_panel, real *tile, ptrdiff_t t_row, int first, const real *bias,
                     const region *next)
{
    for (ptrdiff_t i = 0, height; i < rows; i += height) {
        height = panel_height(rows - i);
        prefetch_part(next, i, height, rows);
        micro_for(height, width)(kc, a + i * kc, b, b_panel, tile + i * t_row, t_row, first, bias);
    }
}
