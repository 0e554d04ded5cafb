/* The product for few classes (n <= LL_SMALL_N): rows of x are streamed once, unpacked.
 *
 * One logit is, lane by lane, a chain of fused multiply-adds over the features lane, lane +
 * LL_LANES, ... in ascending order, started from zero; then the sum over the lanes, then the
 * bias. Which rows, classes and features share a kernel does not matter to the bits.
 *
 * A group of rows passes by a block of features at a time, so that the weights of the block stay
 * in the cache; the chains wait in memory between blocks.
 *
 * Weights are kept as vectors of LL_LANES features, class after class; chains wait class by class
 * too, those of a group's rows after each other.
 */

/* Vectors of features of `rows` rows and `cols` of n classes. A vector takes LL_PARTS registers,
 * whose lanes have nothing to do with each other: they take turns, so that more rows and classes fit
 * into the registers. */
LL_TEMPLATE void dot_kernel(const int rows, const int cols, ptrdiff_t kc, const real *x,
                            ptrdiff_t x_row, const real *w, ptrdiff_t n, real *sums, int first)
{
    const ptrdiff_t whole = kc - kc % LL_LANES;

    for (ptrdiff_t q = 0; q < LL_LANES; q += LL_PART) {
        reg sum[LL_DOT_ROWS][LL_DOT_COLS];
        const real *wp = w + q;

        LL_UNROLL
        for (int i = 0; i < rows; i++)
            LL_UNROLL
            for (int j = 0; j < cols; j++)
                sum[i][j] = first ? rset(0) : rload(sums + j * LL_DOT_CLASS + i * LL_LANES + q);
        for (ptrdiff_t p = q; p < whole; p += LL_LANES, wp += n * LL_LANES) {
            reg xi[LL_DOT_ROWS];
            LL_UNROLL
            for (int i = 0; i < rows; i++) {
                prefetch_to_l2(x + (i + 4 * rows) * x_row + p);
                xi[i] = rload(x + i * x_row + p);
            }
            LL_UNROLL
            for (int j = 0; j < cols; j++) {
                reg wj = rload(wp + j * LL_LANES);
                LL_UNROLL
                for (int i = 0; i < rows; i++)
                    sum[i][j] = rfma(xi[i], wj, sum[i][j]);
            }
        }
        LL_UNROLL
        for (int i = 0; i < rows; i++)
            LL_UNROLL
            for (int j = 0; j < cols; j++)
                rstore(sums + j * LL_DOT_CLASS + i * LL_LANES + q, sum[i][j]);
    }
    for (int i = 0; whole < kc && i < rows; i++) {
        vec xi = load_part(x + i * x_row + whole, kc - whole);
        for (int j = 0; j < cols; j++) {
            real *sum = sums + j * LL_DOT_CLASS + i * LL_LANES;
            vstore(sum, vfma(xi, vload(w + whole * n + j * LL_LANES), vload(sum)));
        }
    }
}

typedef void dot_function(ptrdiff_t, const real *, ptrdiff_t, const real *, ptrdiff_t, real *, int);
#define LL_DOT(cols, rows)                                                                       \
    static void dot_##rows##_##cols(ptrdiff_t kc, const real *x, ptrdiff_t x_row, const real *w, \
                                    ptrdiff_t n, real *sums, int first)                          \
    {                                                                                            \
        dot_kernel(rows, cols, kc, x, x_row, w, n, sums, first);                                 \
    }
#define LL_DOT_NAME(cols, rows) dot_##rows##_##cols,

#if LL_DOT_COLS == 8
LL_UP_TO_8(LL_DOT, 1)
LL_UP_TO_8(LL_DOT, 2)
LL_UP_TO_8(LL_DOT, 3)
LL_UP_TO_6(LL_DOT, 4)
static dot_function *const dot_functions[][LL_DOT_COLS] = {
    { LL_UP_TO_8(LL_DOT_NAME, 1) },
    { LL_UP_TO_8(LL_DOT_NAME, 2) },
    { LL_UP_TO_8(LL_DOT_NAME, 3) },
    { LL_UP_TO_6(LL_DOT_NAME, 4) },
};
#else
LL_UP_TO_4(LL_DOT, 1)
LL_UP_TO_4(LL_DOT, 2)
LL_UP_TO_4(LL_DOT, 3)
static dot_function *const dot_functions[][LL_DOT_COLS] = {
    { LL_UP_TO_4(LL_DOT_NAME, 1) },
    { LL_UP_TO_4(LL_DOT_NAME, 2) },
    { LL_UP_TO_4(LL_DOT_NAME, 3) },
};
#endif

/* Rows to a group. */
static inline ptrdiff_t dot_group(ptrdiff_t n)
{
    return least(LL_DOT_GROUP, LL_DOT_SUMS / n / LL_LANES * LL_LANES);
}

/* Classes to a kernel that takes `most`: groups of equal size. */
static inline ptrdiff_t equal_cols(ptrdiff_t n, ptrdiff_t most)
{
    const ptrdiff_t groups = (n + most - 1) / most;
    return (n + groups - 1) / groups;
}

/* Chains over some features of a group's rows. */
static void dot_chains(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t kc, const real *x, ptrdiff_t x_row,
                       const real *w, real *sums, int first)
{
    const ptrdiff_t cols = equal_cols(n, LL_DOT_COLS);
    const ptrdiff_t height = least(LL_DOT_ROWS, LL_DOT_CHAINS / cols);

    for (ptrdiff_t i = 0, step; i < rows; i += step) {
        step = least(height, rows - i);
        for (ptrdiff_t c = 0; c < n; c += cols)
            dot_functions[step - 1][least(cols, n - c) - 1](
                kc, x + i * x_row, x_row, w + c * LL_LANES, n,
                sums + c * LL_DOT_CLASS + i * LL_LANES, first);
    }
}

/* Features to a block: blocks of equal size, whole vectors. */
static inline ptrdiff_t dot_block(ptrdiff_t n, ptrdiff_t k)
{
    ptrdiff_t most = LL_DOT_WEIGHTS * LL_LANES / n, blocks = (k + most - 1) / most;
    return blocks < 2 ? k : vectors((k + blocks - 1) / blocks) * LL_LANES;
}

/* Weights in aligned vectors, zeros behind the last feature. */
static void dot_weights(const ll_product *from, const void *weight, ptrdiff_t n, real *w)
{
    for (ptrdiff_t p = 0; p < from->k; p += LL_LANES)
        for (ptrdiff_t c = 0; c < n; c++, w += LL_LANES)
            vstore(w, gather_weights(from, weight, c * from->w_row + p * from->w_col, from->w_col,
                                     from->k - p));
}

/* All chains of a group's rows. `w` is made by dot_weights. */
static void dot_sums(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t k, const real *x, ptrdiff_t x_row,
                     const real *w, real *sums)
{
    const ptrdiff_t block = dot_block(n, k);
    ptrdiff_t p = 0;

    do {
        dot_chains(rows, n, least(block, k - p), x + p, x_row, w + p * n, sums, p == 0);
        p += block;
    } while (p < k); /* once even without features */
}

/* Chains to logits: rows of a tile that have room for whole vectors. */
static void dot_rows(ptrdiff_t rows, ptrdiff_t n, const real *bias, const real *sums, real *tile,
                     ptrdiff_t t_row)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t c = 0; c < n; c += LL_LANES)
            vstore(tile + r * t_row + c,
                   vadd(vsums(sums + c * LL_DOT_CLASS + r * LL_LANES, LL_DOT_CLASS,
                              least(n - c, LL_LANES)),
                        vload(bias + c)));
}

/* The same of LL_LANES rows, class by class: lanes are rows. */
static void dot_by_rows(ptrdiff_t n, const real *bias, const real *sums, vec *z)
{
    for (ptrdiff_t c = 0; c < n; c++)
        z[c] = vadd(vsums(sums + c * LL_DOT_CLASS, LL_LANES, LL_LANES), vset(bias[c]));
}
