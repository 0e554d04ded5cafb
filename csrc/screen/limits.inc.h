/* A load that keeps the units for products of bytes busy, as base/limits.inc.h has them for reals. */

#define LL_SPIN_ROWS (LL_BYTE_ROWS * 3 / 4) /* registers are left for classes in two parts */

/* Nearly as many chains as the micro-kernel has accumulators. Classes stay in registers; words of the
 * rows come from L1, as there, and change from round to round. Nothing is a constant, or a compiler
 * would make products once that are alike. Every two rounds they cancel: no sum leaves int32. */
static double spin(ptrdiff_t rounds)
{
    int8_t q = (int8_t)(1 + rounds % 64), row[2][LL_QUAD] = { { q, q, q, q } };
    word x[2][LL_SPIN_ROWS];
    uint8_t bytes[LL_STEP];
    int32_t sums[LL_SPIN_ROWS * LL_BYTE_WIDE * LL_SCREEN_LANES], all = 0;
    ivec sum[LL_SPIN_ROWS][LL_BYTE_WIDE];
    quad_bytes b[LL_BYTE_WIDE];

    for (int j = 0; j < LL_QUAD; j++)
        row[1][j] = (int8_t)-q;
    for (int i = 0; i < LL_SPIN_ROWS; i++) {
        x[0][i] = make_word(row[0]);
        x[1][i] = make_word(row[1]);
    }
    for (int i = 0; i < LL_STEP; i++)
        bytes[i] = (uint8_t)(128 + (i + rounds) % 64);
    LL_UNROLL
    for (int j = 0; j < LL_BYTE_WIDE; j++)
        b[j] = bload(bytes);
    LL_UNROLL
    for (int i = 0; i < LL_SPIN_ROWS; i++)
        LL_UNROLL
        for (int j = 0; j < LL_BYTE_WIDE; j++)
            sum[i][j] = iset(i * LL_BYTE_WIDE + j);
    LL_ROLLED
    for (ptrdiff_t r = 0; r < rounds; r++)
        LL_UNROLL
        for (int i = 0; i < LL_SPIN_ROWS; i++)
            LL_UNROLL
            for (int j = 0; j < LL_BYTE_WIDE; j++)
                sum[i][j] = idot(sum[i][j], b[j], x[r & 1][i]);
    LL_UNROLL
    for (int i = 0; i < LL_SPIN_ROWS; i++)
        LL_UNROLL
        for (int j = 0; j < LL_BYTE_WIDE; j++)
            istore(sums + (i * LL_BYTE_WIDE + j) * LL_SCREEN_LANES, sum[i][j]);
    for (int l = 0; l < LL_SPIN_ROWS * LL_BYTE_WIDE * LL_SCREEN_LANES; l++)
        all |= sums[l];
    /* No sum is negative: looking at them keeps the work alive. */
    return all < 0 ? 0 : 2.0 * LL_STEP * LL_SPIN_ROWS * LL_BYTE_WIDE * (double)rounds;
}
