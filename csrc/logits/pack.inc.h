/* Packing: features become the slow index, rows or classes the fast one.
 *
 * Weights go into panels of LL_LANES classes, feature by feature:
 *     panel[p * LL_LANES + lane] = weight[lane][p]
 * A last panel with fewer classes repeats the last one: its logits are overwritten later.
 *
 * Rows of x go into micro-panels of `height` rows, feature by feature, one block of KC features
 * after the other:
 *     packed[kc_start * rows + panel_start * kc + p * height + i]
 * Heights are LL_MR but among the last rows: see panel_height.
 */

/* Height of the micro-panel that begins at row i of `rows`. The rows of a step, the last rows
 * perhaps fewer, go into as few panels as will do, and these are equally high: each panel costs the
 * latency of its chains, however low it is. */
static inline ptrdiff_t panel_height(ptrdiff_t i, ptrdiff_t rows)
{
    ptrdiff_t left = least(LL_GROUP_STEP - i % LL_GROUP_STEP, rows - i);
    ptrdiff_t panels = (left + LL_MR - 1) / LL_MR;
    return left == LL_GROUP_STEP ? LL_MR : (left + panels - 1) / panels; /* divisions are slow */
}

/* LL_SQUARE rows by as many columns, transposed and stored. */
#define LL_SQUARE LL_PART
static inline void store_transposed(const real *const *row, ptrdiff_t col, real *out,
                                    ptrdiff_t out_row)
{
    reg square[LL_SQUARE];
    rtranspose(row, col, square);
    for (int i = 0; i < LL_SQUARE; i++)
        rstore(out + i * out_row, square[i]);
}

/* `count` rows of `kc` contiguous elements, interleaved with distance `height`, LL_SQUARE rows
 * after the other: memory delivers few rows side by side faster than many. Each store is LL_SQUARE
 * wide: what it spills past `height` belongs to the next feature and is overwritten with it. So the
 * packed array needs that much slack at its end. What lies `ahead` is packed next and comes into the
 * cache. */
static void interleave(const real *x, ptrdiff_t x_row, ptrdiff_t count, ptrdiff_t kc,
                       ptrdiff_t height, real *packed, ptrdiff_t ahead)
{
    const real *row[LL_SQUARE];
    ptrdiff_t whole = kc - kc % LL_SQUARE;

    for (ptrdiff_t i = (height - 1) / LL_SQUARE * LL_SQUARE; i >= 0; i -= LL_SQUARE) {
        for (ptrdiff_t r = 0; r < LL_SQUARE; r++)
            row[r] = x + least(i + r, count - 1) * x_row;
        for (ptrdiff_t p = 0; p < whole; p += LL_SQUARE) {
            for (ptrdiff_t r = 0; r < LL_SQUARE && p % LL_LANES == 0; r++)
                prefetch_to_l2(row[r] + p + ahead);
            store_transposed(row, p, packed + p * height + i, height);
        }
    }
    for (ptrdiff_t p = whole; p < kc; p++)
        for (ptrdiff_t i = 0; i < height; i++)
            packed[p * height + i] = x[least(i, count - 1) * x_row + p];
}

static void pack_x(const void *x_, ptrdiff_t rows, ptrdiff_t k, ptrdiff_t x_row, void *packed_)
{
    const real *x = x_;
    real *packed = packed_;

    for (ptrdiff_t pc = 0; pc < k; pc += LL_KC) {
        ptrdiff_t kc = least(LL_KC, k - pc), height;
        for (ptrdiff_t i = 0; i < rows; i += height) {
            height = panel_height(i, rows);
            interleave(x + i * x_row + pc, x_row, height, kc, height, packed, height * x_row);
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
                        real *packed, ptrdiff_t ahead)
{
    for (ptrdiff_t c = 0; c < n; c += LL_LANES) {
        ptrdiff_t count = least(LL_LANES, n - c);
        if (w_col == 1)
            interleave(w + c * w_row, w_row, count, kc, LL_LANES, packed + c * kc, ahead);
        else
            interleave_strided(w + c * w_row, w_row, w_col, count, kc, packed + c * kc);
    }
}

static void pack_weight(const void *weight, ptrdiff_t n, ptrdiff_t k, ptrdiff_t w_row,
                        ptrdiff_t w_col, void *packed)
{
    pack_panels(weight, n, k, w_row, w_col, packed, LL_LANES * w_row);
}
