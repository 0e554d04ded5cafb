/* The product for few classes (n <= LL_SMALL_N): rows of x are streamed once, unpacked.
 *
 * One logit is, lane by lane, a chain of fused multiply-adds over the features lane, lane +
 * LL_LANES, ... in ascending order, started from zero; then the sum over the lanes, then the
 * bias. Which rows, classes and features share a kernel does not matter to the bits.
 *
 * A group of rows passes by a block of features at a time, so that the weights of the block stay
 * in L1; the chains wait in memory between blocks.
 */

#define LL_DOT_GROUP 32                         /* rows */
#define LL_DOT_SUMS (LL_DOT_GROUP * LL_SMALL_N) /* chains of a group */
#define LL_DOT_WEIGHTS (256 * LL_LANES)         /* weights of a block: 16 KiB */

static inline vec load_part(const real *p, ptrdiff_t count)
{
    real part[LL_LANES] = { 0 };
    for (ptrdiff_t i = 0; i < count; i++)
        part[i] = p[i];
    return vload(part);
}

/* A vector takes LL_PARTS registers, whose lanes have nothing to do with each other: they take
 * turns, so that more rows and classes fit into the registers. */
LL_TEMPLATE void dot_kernel(const int rows, const int cols, ptrdiff_t kc, const real *x,
                            ptrdiff_t x_row, const real *w, ptrdiff_t w_row, real *sums,
                            ptrdiff_t s_row, int first)
{
    const ptrdiff_t whole = kc - kc % LL_LANES;

    for (ptrdiff_t q = 0; q < LL_LANES; q += LL_LANES / LL_PARTS) {
        reg sum[LL_DOT_ROWS][LL_DOT_COLS];

        LL_UNROLL
        for (int i = 0; i < rows; i++)
            LL_UNROLL
            for (int j = 0; j < cols; j++)
                sum[i][j] = first ? rzero() : rload(sums + i * s_row + j * LL_LANES + q);
        for (ptrdiff_t p = q; p < whole; p += LL_LANES) {
            reg xi[LL_DOT_ROWS];
            LL_UNROLL
            for (int i = 0; i < rows; i++) {
                prefetch(x + (i + 2 * rows) * x_row + p);
                xi[i] = rload(x + i * x_row + p);
            }
            LL_UNROLL
            for (int j = 0; j < cols; j++) {
                reg wj = rload(w + j * w_row + p);
                LL_UNROLL
                for (int i = 0; i < rows; i++)
                    sum[i][j] = rfma(xi[i], wj, sum[i][j]);
            }
        }
        LL_UNROLL
        for (int i = 0; i < rows; i++)
            LL_UNROLL
            for (int j = 0; j < cols; j++)
                rstore(sums + i * s_row + j * LL_LANES + q, sum[i][j]);
    }
    for (int i = 0; whole < kc && i < rows; i++) {
        vec xi = load_part(x + i * x_row + whole, kc - whole);
        for (int j = 0; j < cols; j++) {
            real *sum = sums + i * s_row + j * LL_LANES;
            vstore(sum, vfma(xi, vload(w + j * w_row + whole), vload(sum)));
        }
    }
}

typedef void dot_function(ptrdiff_t, const real *, ptrdiff_t, const real *, ptrdiff_t, real *,
                          ptrdiff_t, int);
#define LL_DOT(rows, cols)                                                                       \
    static void dot_##rows##_##cols(ptrdiff_t kc, const real *x, ptrdiff_t x_row, const real *w, \
                                    ptrdiff_t w_row, real *sums, ptrdiff_t s_row, int first)     \
    {                                                                                            \
        dot_kernel(rows, cols, kc, x, x_row, w, w_row, sums, s_row, first);                      \
    }
#define LL_DOT_4(rows) LL_DOT(rows, 1) LL_DOT(rows, 2) LL_DOT(rows, 3) LL_DOT(rows, 4)
#define LL_DOT_8(rows)                                                                           \
    LL_DOT_4(rows) LL_DOT(rows, 5) LL_DOT(rows, 6) LL_DOT(rows, 7) LL_DOT(rows, 8)
#define LL_DOT_NAMES_4(rows) dot_##rows##_1, dot_##rows##_2, dot_##rows##_3, dot_##rows##_4
#define LL_DOT_NAMES_8(rows)                                                                     \
    LL_DOT_NAMES_4(rows), dot_##rows##_5, dot_##rows##_6, dot_##rows##_7, dot_##rows##_8

#if LL_DOT_COLS == 8
LL_DOT_8(1)
LL_DOT_8(2)
static dot_function *const dot_functions[LL_DOT_ROWS][LL_DOT_COLS] = {
    { LL_DOT_NAMES_8(1) },
    { LL_DOT_NAMES_8(2) },
};
#else
LL_DOT_4(1)
LL_DOT_4(2)
LL_DOT_4(3)
static dot_function *const dot_functions[LL_DOT_ROWS][LL_DOT_COLS] = {
    { LL_DOT_NAMES_4(1) },
    { LL_DOT_NAMES_4(2) },
    { LL_DOT_NAMES_4(3) },
};
#endif

/* Chains over some features of `rows` <= LL_DOT_GROUP rows; classes are cut into equal groups that
 * fit the registers. sums[i * LL_SMALL_N + c] is the vector of row i and class c. */
static void dot_chains(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t kc, const real *x, ptrdiff_t x_row,
                       const real *w, ptrdiff_t w_row, real *sums, int first)
{
    ptrdiff_t groups = (n + LL_DOT_COLS - 1) / LL_DOT_COLS, cols = (n + groups - 1) / groups;

    for (ptrdiff_t i = 0, step; i < rows; i += step) {
        step = least(LL_DOT_ROWS, rows - i);
        for (ptrdiff_t c = 0; c < n; c += cols)
            dot_functions[step - 1][least(cols, n - c) - 1](
                kc, x + i * x_row, x_row, w + c * w_row, w_row,
                sums + (i * LL_SMALL_N + c) * LL_LANES, LL_SMALL_N * LL_LANES, first);
    }
}

/* Features to a block: blocks of equal size, whole vectors, no more weights than L1 holds. */
static inline ptrdiff_t dot_block(ptrdiff_t n, ptrdiff_t k)
{
    ptrdiff_t most = LL_DOT_WEIGHTS / n, blocks = (k + most - 1) / most;
    return blocks < 2 ? k : vectors((k + blocks - 1) / blocks) * LL_LANES;
}

/* Weights in aligned rows of whole vectors, zeros behind the last feature. */
static void dot_weights(const real *weight, ptrdiff_t n, ptrdiff_t k, ptrdiff_t w_row,
                        ptrdiff_t w_col, real *w)
{
    const ptrdiff_t whole = vectors(k) * LL_LANES;

    for (ptrdiff_t c = 0; c < n; c++, weight += w_row, w += whole) {
        if (w_col == 1)
            memcpy(w, weight, (size_t)k * sizeof(real));
        else
            for (ptrdiff_t p = 0; p < k; p++)
                w[p] = weight[p * w_col];
        memset(w + k, 0, (size_t)(whole - k) * sizeof(real));
    }
}

/* All n logits of `rows` rows into the tile, whose rows have room for whole vectors. `w` is made by
 * dot_weights. */
static void dot_rows(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t k, const real *x, ptrdiff_t x_row,
                     const real *w, const real *bias, real *sums, real *tile, ptrdiff_t t_row)
{
    const ptrdiff_t w_row = vectors(k) * LL_LANES;
    ptrdiff_t block = dot_block(n, k);

    for (ptrdiff_t i = 0; i < rows; i += LL_DOT_GROUP) {
        ptrdiff_t group = least(LL_DOT_GROUP, rows - i), pc = 0;

        do {
            dot_chains(group, n, least(block, k - pc), x + i * x_row + pc, x_row, w + pc,
                       w_row, sums, pc == 0);
            pc += block;
        } while (pc < k); /* once even without features */
        for (ptrdiff_t r = 0; r < group; r++)
            for (ptrdiff_t c = 0; c < n; c += LL_LANES)
                vstore(tile + (i + r) * t_row + c,
                       vadd(vsums(sums + (r * LL_SMALL_N + c) * LL_LANES, least(n - c, LL_LANES)),
                            vload(bias + c)));
    }
}
