/* Loads that keep one unit of the core busy, to measure what the machine can do. */

/* As many chains as the micro-kernel has accumulators. */
static double spin_fma(ptrdiff_t rounds)
{
    vec sum[LL_MR][LL_NV], a = vset(R(0.5)), b = vset(1), all = vset(0);

    LL_UNROLL
    for (int i = 0; i < LL_MR; i++)
        LL_UNROLL
        for (int j = 0; j < LL_NV; j++)
            sum[i][j] = vadd(vset((real)((i * LL_NV + j) * LL_LANES)), vload(lane_index));
    for (ptrdiff_t r = 0; r < rounds; r++)
        LL_UNROLL
        for (int i = 0; i < LL_MR; i++)
            LL_UNROLL
            for (int j = 0; j < LL_NV; j++)
                sum[i][j] = vfma(sum[i][j], a, b);
    LL_UNROLL
    for (int i = 0; i < LL_MR; i++)
        LL_UNROLL
        for (int j = 0; j < LL_NV; j++)
            all = vadd(all, sum[i][j]);
    /* Every chain tends to 2, so the sum is positive: looking at it keeps the work alive. */
    return vsum(all) < 0 ? 0 : 2.0 * LL_LANES * LL_MR * LL_NV * (double)rounds;
}

/* Memory in `streams` parts that are read side by side, which memory may deliver faster. */
static double spin_read(ptrdiff_t count, const void *p_, ptrdiff_t streams)
{
    const real *p = p_;
    const ptrdiff_t part = count / streams;
    vec sum[4] = { vset(0), vset(0), vset(0), vset(0) };

    for (ptrdiff_t i = 0; i + LL_LANES <= part; i += LL_LANES)
        for (ptrdiff_t s = 0; s < streams; s++)
            sum[s % 4] = vadd(sum[s % 4], vload(p + s * part + i));
    return (double)vsum(vadd(vadd(sum[0], sum[1]), vadd(sum[2], sum[3])));
}
