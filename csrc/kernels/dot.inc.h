/* The product for few classes (n <= LL_SMALL_N): rows of x are streamed once, unpacked.
 *
 * One logit is, lane by lane, a chain of fused multiply-adds over the features lane, lane +
 * LL_LANES, ... in ascending order, started from zero; then the sum over the lanes, then the
 * bias. Which rows and classes share a kernel does not matter to the bits.
 */

static inline vec load_part(const real *p, ptrdiff_t count)
{
    real part[LL_LANES] = { 0 };
    for (ptrdiff_t i = 0; i < count; i++)
        part[i] = p[i];
    return vload(part);
}

static inline void dot_kernel(const int rows, const int cols, ptrdiff_t k, const real *x,
                              ptrdiff_t x_row, const real *w, ptrdiff_t w_row, const real *bias,
                              real *tile, ptrdiff_t t_row)
{
    vec sum[LL_DOT_ROWS][LL_DOT_COLS];
    ptrdiff_t p = 0;

    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++)
            sum[i][j] = vset(0);
    for (; p + LL_LANES <= k; p += LL_LANES) {
        vec xi[LL_DOT_ROWS];
        for (int i = 0; i < rows; i++)
            xi[i] = vload(x + i * x_row + p);
        for (int j = 0; j < cols; j++) {
            vec wj = vload(w + j * w_row + p);
            for (int i = 0; i < rows; i++)
                sum[i][j] = vfma(xi[i], wj, sum[i][j]);
        }
    }
    if (p < k)
        for (int i = 0; i < rows; i++) {
            vec xi = load_part(x + i * x_row + p, k - p);
            for (int j = 0; j < cols; j++)
                sum[i][j] = vfma(xi, load_part(w + j * w_row + p, k - p), sum[i][j]);
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++)
            tile[i * t_row + j] = vsum(sum[i][j]) + bias[j];
}

typedef void dot_function(ptrdiff_t, const real *, ptrdiff_t, const real *, ptrdiff_t,
                          const real *, real *, ptrdiff_t);
#define LL_DOT(rows, cols)                                                                       \
    static void dot_##rows##_##cols(ptrdiff_t k, const real *x, ptrdiff_t x_row, const real *w,  \
                                    ptrdiff_t w_row, const real *bias, real *tile,               \
                                    ptrdiff_t t_row)                                             \
    {                                                                                            \
        dot_kernel(rows, cols, k, x, x_row, w, w_row, bias, tile, t_row);                        \
    }
#define LL_DOT_UP_TO_4(rows) LL_DOT(rows, 1) LL_DOT(rows, 2) LL_DOT(rows, 3) LL_DOT(rows, 4)
#define LL_DOT_NAMES_4(rows) dot_##rows##_1, dot_##rows##_2, dot_##rows##_3, dot_##rows##_4

LL_DOT_UP_TO_4(1)
#if LL_DOT_COLS >= 5
LL_DOT(1, 5)
#endif
#if LL_DOT_COLS == 8
LL_DOT(1, 6)
LL_DOT(1, 7)
LL_DOT(1, 8)
#endif
#if LL_DOT_ROWS == 2
LL_DOT_UP_TO_4(2)
LL_DOT(2, 5)
LL_DOT(2, 6)
LL_DOT(2, 7)
LL_DOT(2, 8)
#endif

static dot_function *const dot_functions[LL_DOT_ROWS][LL_DOT_COLS] = {
#if LL_DOT_COLS == 4
    { LL_DOT_NAMES_4(1) },
#elif LL_DOT_COLS == 5
    { LL_DOT_NAMES_4(1), dot_1_5 },
#else
    { LL_DOT_NAMES_4(1), dot_1_5, dot_1_6, dot_1_7, dot_1_8 },
    { LL_DOT_NAMES_4(2), dot_2_5, dot_2_6, dot_2_7, dot_2_8 },
#endif
};

/* All n classes for `rows` rows. Classes are cut into equal groups that fit the registers. */
static void dot_rows(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t k, const real *x, ptrdiff_t x_row,
                     const real *w, ptrdiff_t w_row, const real *bias, real *tile,
                     ptrdiff_t t_row)
{
    ptrdiff_t groups = (n + LL_DOT_COLS - 1) / LL_DOT_COLS, cols = (n + groups - 1) / groups;

    for (ptrdiff_t i = 0, step; i < rows; i += step) {
        step = least(LL_DOT_ROWS, rows - i);
        for (ptrdiff_t c = 0; c < n; c += cols)
            dot_functions[step - 1][least(cols, n - c) - 1](k, x + i * x_row, x_row, w + c * w_row,
                                                            w_row, bias + c,
                                                            tile + i * t_row + c, t_row);
    }
}
