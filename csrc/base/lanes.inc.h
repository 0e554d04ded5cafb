/* On top of the vocabulary: parts of vectors, strided vectors, zeros. */

static const real lane_index[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

/* a * b, and 0 where a is 0 though b is infinite. */
static inline vec vmul_zero(vec a, vec b) { return vselect(veq(a, vset(0)), vset(0), vmul(a, b)); }

static inline vec load_part(const real *p, ptrdiff_t count)
{
    real part[LL_LANES] = { 0 };
    for (ptrdiff_t i = 0; i < count; i++)
        part[i] = p[i];
    return vload(part);
}

/* LL_LANES values from p, `step` apart, 0 behind the first `count`. */
static inline vec gather(const real *p, ptrdiff_t step, ptrdiff_t count)
{
    real part[LL_LANES] = { 0 };

    if (step == 1 && count >= LL_LANES)
        return vload(p);
    for (ptrdiff_t j = 0; j < least(count, LL_LANES); j++)
        part[j] = p[j * step];
    return vload(part);
}

/* `count` features from p on, `step` apart, of LL_LANES rows or classes, transposed. */
static inline void transpose_features(const real *const *row, ptrdiff_t p, ptrdiff_t count,
                                      ptrdiff_t step, vec *out)
{
    real transposed[LL_LANES][LL_LANES];

    if (step == 1 && count == LL_LANES) {
        vtranspose(row, p, out);
        return;
    }
    for (ptrdiff_t r = 0; r < LL_LANES; r++)
        for (ptrdiff_t q = 0; q < count; q++)
            transposed[q][r] = row[r][(p + q) * step];
    for (ptrdiff_t q = 0; q < count; q++)
        out[q] = vload(transposed[q]);
}

/* -inf behind the last class, in one store: the epilogue loads the whole vector at once. */
static inline void mask_tail(real *z, ptrdiff_t count)
{
    mask real_class = vlt(vload(lane_index), vset((real)count));
    vstore(z, vselect(real_class, vload(z), vset(-LL_INF)));
}
