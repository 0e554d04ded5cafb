/* Packing: features become the slow index, rows or classes the fast one.
 *
 * Weights go into panels of LL_LANES classes, feature by feature:
 *     panel[p * LL_LANES + lane] = weight[lane][p]
 * A last panel with fewer classes repeats the last one: its logits are overwritten later.
 *
 * Rows of x go into micro-panels of `height` rows, feature by feature, one block of KC features
 * after the other:
 *     packed[kc_start * rows + panel_start * kc + p * height + i]
 * Heights are LL_MR while that many rows are left, then powers of two: see panel_height.
 */

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t vectors(ptrdiff_t count) { return (count + LL_LANES - 1) / LL_LANES; }

static inline ptrdiff_t panel_height(ptrdiff_t rows_left)
{
    ptrdiff_t height = LL_MR;
    if (rows_left < height) {
        height = 8;
        while (height > rows_left)
            height /= 2;
    }
    return height;
}

#define LL_PACK_AHEAD (4 * LL_LANES) /* rows are prefetched this far ahead */

/* `count` rows of `kc` contiguous elements, interleaved with distance `height`. Each store is a
 * whole vector: what it spills past `height` belongs to the next feature and is overwritten with
 * it, later rows being stored before earlier ones. So the packed array needs LL_LANES elements of
 * slack at its end. */
static void interleave(const real *x, ptrdiff_t x_row, ptrdiff_t count, ptrdiff_t kc,
                       ptrdiff_t height, real *packed)
{
    const real *row[2 * LL_LANES];
    vec square[LL_LANES];
    ptrdiff_t p = 0, groups = (height + LL_LANES - 1) / LL_LANES;

    for (ptrdiff_t i = 0; i < groups * LL_LANES; i++)
        row[i] = x + least(i, count - 1) * x_row;
    for (; p + LL_LANES <= kc; p += LL_LANES)
        for (ptrdiff_t g = groups - 1; g >= 0; g--) {
            for (ptrdiff_t i = 0; i < LL_LANES; i++)
                prefetch(row[g * LL_LANES + i] + p + LL_PACK_AHEAD);
            vtranspose(row + g * LL_LANES, p, square);
            for (ptrdiff_t j = 0; j < LL_LANES; j++)
                vstore(packed + (p + j) * height + g * LL_LANES, square[j]);
        }
    for (; p < kc; p++)
        for (ptrdiff_t i = 0; i < height; i++)
            packed[p * height + i] = row[i][p];
}

static void pack_x(const void *x_, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t x_row, void *packed_)
{
    const real *x = x_;
    real *packed = packed_;

    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        ptrdiff_t kc = least(LL_KC, k - pc), height;
        for (ptrdiff_t i = 0; i < rows; i += height) {
            height = panel_height(rows - i);
            interleave(x + i * x_row + pc, x_row, height, kc, height, packed);
            packed += height * kc;
        }
    }
}

/* Classes that lie `w_col` apart in each feature: any strides, column-major among them. */
static void interleave_strided(const real *w, ptrdiff_t w_row, ptrdiff_t w_col, ptrdiff_t count,
                               ptrdiff_t kc, real *packed)
{
    for (ptrdiff_t p = 0; p < kc; p++)
        for (ptrdiff_t i = 0; i < LL_LANES; i++)
            packed[p * LL_LANES + i] = w[least(i, count - 1) * w_row + p * w_col];
}

static void pack_panels(const real *w, ptrdiff_t n, ptrdiff_t kc, ptrdiff_t w_row, ptrdiff_t w_col,
                        real *packed)
{
    for (ptrdiff_t c = 0; c < n; c += LL_LANES) {
        ptrdiff_t count = least(LL_LANES, n - c);
        if (w_col == 1)
            interleave(w + c * w_row, w_row, count, kc, LL_LANES, packed + c * kc);
        else
            interleave_strided(w + c * w_row, w_row, w_col, count, kc, packed + c * kc);
    }
}

static void pack_weight(const void *weight, ptrdiff_t n, ptrdiff_t k, ptrdiff_t w_row,
                        ptrdiff_t w_col, void *packed)
{
    pack_panels(weight, n, k, w_row, w_col, packed);
}
