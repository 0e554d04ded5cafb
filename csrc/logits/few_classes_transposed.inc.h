/* The product for few classes and few features: LL_LANES rows of x are transposed, so that lanes
 * are rows and a weight serves all of them. The logits are those of few_classes.inc.h to the bit:
 * its chain in lane l is a vector of all rows here, its tree over the lanes adds these vectors. */

/* Whether it is the faster way: to transpose takes time for each feature, what it spares is time
 * for each class. */
static inline int is_transposed(ptrdiff_t n, ptrdiff_t k) { return k <= LL_TRANSPOSED_RATIO * n; }

/* Weights, feature by feature, those of a kernel's classes together. */
static void transpose_weights(const ll_product *from, const void *weight, ptrdiff_t n, real *w)
{
    const ptrdiff_t k = from->k, all = vectors(k) * LL_LANES;
    const ptrdiff_t cols = equal_cols(n, LL_TRANSPOSED_COLS);

    for (ptrdiff_t c = 0, count; c < n; c += cols) {
        count = least(cols, n - c);
        for (ptrdiff_t p = 0; p < all; p++)
            for (ptrdiff_t j = 0; j < count; j++)
                *w++ = p < k ? read_weight(from, weight, (c + j) * from->w_row + p * from->w_col)
                             : 0;
    }
}

/* LL_LANES features from `col` on of as many rows. */
static inline void transpose_square(const real *const *row, ptrdiff_t col, real *transposed)
{
    vec square[LL_LANES];

    vtranspose(row, col, square);
    LL_UNROLL
    for (ptrdiff_t j = 0; j < LL_LANES; j++)
        vstore(transposed + j * LL_LANES, square[j]);
}

/* Features [pc, pc + kc) of LL_LANES rows of x, the last of `count` again where there are fewer;
 * feature by feature. */
LL_TEMPLATE void transpose_rows(const real *x, ptrdiff_t x_row, ptrdiff_t count, ptrdiff_t pc,
                           ptrdiff_t kc, real *transposed)
{
    const ptrdiff_t whole = kc - kc % LL_LANES;
    const real *row[LL_LANES];
    vec square[LL_LANES];

    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        row[r] = x + pc + least(r, count - 1) * x_row;
    for (ptrdiff_t p = 0; p < whole; p += LL_LANES)
        transpose_square(row, p, transposed + p * LL_LANES);
    if (whole == kc)
        return;
    if (whole) /* the same again, and the last ones */
        transpose_square(row, kc - LL_LANES, transposed + (kc - LL_LANES) * LL_LANES);
    else {
        transpose_features(row, 0, kc, 1, square);
        for (ptrdiff_t p = 0; p < kc; p++)
            vstore(transposed + p * LL_LANES, square[p]);
    }
}

/* The chains in two lanes, half a vector apart, and the first step of the tree. */
LL_TEMPLATE void transposed_lanes(const int cols, ptrdiff_t k, const real *x, const real *w,
                                  vec *sum)
{
    const ptrdiff_t apart = LL_LANES / 2;
    vec low[LL_TRANSPOSED_COLS], high[LL_TRANSPOSED_COLS];

    LL_UNROLL
    for (int j = 0; j < cols; j++)
        low[j] = high[j] = vset(0);
    LL_ROLLED
    for (ptrdiff_t p = 0; p < k; p += LL_LANES, x += LL_LANES * LL_LANES, w += LL_LANES * cols) {
        vec a = vload(x), b = vload(x + apart * LL_LANES);
        LL_UNROLL
        for (int j = 0; j < cols; j++) {
            low[j] = vfma(a, vset(w[j]), low[j]);
            high[j] = vfma(b, vset(w[apart * cols + j]), high[j]);
        }
    }
    LL_UNROLL
    for (int j = 0; j < cols; j++)
        sum[j] = vadd(low[j], high[j]);
}

/* Rows that are transposed next: they come into the cache while this goes on. */
typedef struct {
    const real *x;
    ptrdiff_t row, count;
} next_rows;

/* Logits of `cols` classes. */
LL_TEMPLATE void transposed_kernel(const int cols, ptrdiff_t k, const real *x, const real *w,
                                   const real *bias, vec *z, const next_rows *next)
{
    const ptrdiff_t pairs = LL_LANES / 2;
    vec sum[LL_LANES / 2][LL_TRANSPOSED_COLS];

    for (ptrdiff_t lane = 0; lane < pairs; lane++) {
        for (ptrdiff_t r = lane; r < next->count; r += pairs)
            for (ptrdiff_t p = 0; p < k; p += LL_LANES)
                prefetch_to_l2(next->x + r * next->row + p);
        transposed_lanes(cols, k, x + lane * LL_LANES, w + lane * cols, sum[lane]);
    }
    for (ptrdiff_t step = LL_LANES / 4; step > 0; step /= 2)
        for (ptrdiff_t lane = 0; lane < step; lane++)
            for (int j = 0; j < cols; j++)
                sum[lane][j] = vadd(sum[lane][j], sum[lane + step][j]);
    for (int j = 0; j < cols; j++)
        z[j] = vadd(sum[0][j], vset(bias[j]));
}

typedef void transposed_function(ptrdiff_t, const real *, const real *, const real *, vec *,
                                 const next_rows *);
#define LL_TRANSPOSED(cols, _)                                                                 \
    static void transposed_##cols(ptrdiff_t k, const real *x, const real *w, const real *bias, \
                                  vec *z, const next_rows *next)                         \
    {                                                                                          \
        transposed_kernel(cols, k, x, w, bias, z, next);                                       \
    }
#define LL_TRANSPOSED_NAME(cols, _) transposed_##cols,

LL_JOIN(LL_UP_TO, LL_TRANSPOSED_COLS)(LL_TRANSPOSED, )

static transposed_function *const transposed_functions[LL_TRANSPOSED_COLS] = {
    LL_JOIN(LL_UP_TO, LL_TRANSPOSED_COLS)(LL_TRANSPOSED_NAME, )
};

/* Logits of LL_LANES rows, class by class. */
static void transposed_logits(ptrdiff_t n, ptrdiff_t k, const real *x, ptrdiff_t x_row,
                              const real *w, const real *bias, real *transposed, vec *z)
{
    const ptrdiff_t all = vectors(k) * LL_LANES, cols = equal_cols(n, LL_TRANSPOSED_COLS);

    transpose_rows(x, x_row, LL_LANES, 0, k, transposed);
    for (ptrdiff_t p = k; p < all; p++)
        vstore(transposed + p * LL_LANES, vset(0));
    for (ptrdiff_t c = 0; c < n; c += cols) {
        ptrdiff_t count = least(cols, n - c);
        ptrdiff_t from = LL_LANES * c / n, to = LL_LANES * (c + count) / n;
        next_rows next = { x + (2 * LL_LANES + from) * x_row, x_row, to - from };
        transposed_functions[count - 1](all, transposed, w + c * all, bias + c, z + c, &next);
    }
}
