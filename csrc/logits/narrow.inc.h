/* Weights of 16 bits. Packed they are panels of words, two features of LL_WORD_LANES classes side by
 * side; for rows of float32 they are widened KC features at a time, on the way to the micro-kernel,
 * or by a micro-kernel of few rows in its registers. So the bits are those of the widened weights. */

static inline int is_narrow(const ll_product *p) { return LL_REAL == 32 && p->type != LL_REALS; }

/* Whether panels lie in memory as the micro-kernel reads them. */
static inline int in_panels(const ll_product *p) { return p->packed && !is_narrow(p); }

/* Bytes from one class to the next, or packed to what would be the next if it had no neighbours. */
static inline ptrdiff_t class_bytes(const ll_product *p)
{
    if (is_narrow(p))
        return p->packed ? word_count(p->k) * (ptrdiff_t)sizeof(uint32_t)
                         : p->w_row * (ptrdiff_t)sizeof(uint16_t);
    return (p->packed ? p->k : p->w_row) * (ptrdiff_t)sizeof(real);
}

/* Weights from the c-th on. */
static inline const void *class_at(const ll_product *p, const void *weight, ptrdiff_t c)
{
    return (const char *)weight + c * class_bytes(p);
}

/* One weight, `at` strides from the first; unpacked. */
static inline real read_weight(const ll_product *p, const void *weight, ptrdiff_t at)
{
    return is_narrow(p) ? (real)ll_widen(p->type, ((const uint16_t *)weight)[at])
                        : ((const real *)weight)[at];
}

/* LL_LANES of them, `step` apart, 0 behind the first `count`. */
static inline vec gather_weights(const ll_product *p, const void *weight, ptrdiff_t at,
                                 ptrdiff_t step, ptrdiff_t count)
{
    real part[LL_LANES] = { 0 };

    if (!is_narrow(p))
        return gather((const real *)weight + at, step, count);
#if LL_REAL == 32
    if (step == 1 && count >= LL_LANES)
        return vnarrow(p->type, (const uint16_t *)weight + at);
#endif
    for (ptrdiff_t j = 0; j < least(count, LL_LANES); j++)
        part[j] = read_weight(p, weight, at + j * step);
    return vload(part);
}

/* ---- packing ------------------------------------------------------------------------------- */

/* Whether rows of numbers of 16 bits can be read, and turned, as rows of words. */
#if LL_REAL == 32 && LL_PARTS < LL_LANES                                                         \
    && (defined(_MSC_VER) || __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
#define LL_READS_WORDS 1
#else
#define LL_READS_WORDS 0
#endif

static inline uint32_t word_at(const uint16_t *w, ptrdiff_t w_col, ptrdiff_t p, ptrdiff_t kc)
{
    return (uint32_t)w[p * w_col] | (p + 1 < kc ? (uint32_t)w[(p + 1) * w_col] << 16 : 0);
}

/* One panel of `count` classes and `kc` features; what lies `ahead` comes into the cache. */
static void pack_panel_of_words(const uint16_t *w, ptrdiff_t count, ptrdiff_t kc, ptrdiff_t w_row,
                                ptrdiff_t w_col, uint32_t *packed, ptrdiff_t ahead)
{
    ptrdiff_t q = 0;

#if LL_READS_WORDS
    for (const real *row[LL_SQUARE]; w_col == 1 && q + LL_LANES <= kc / 2; q += LL_LANES)
        for (ptrdiff_t i = 0; i < LL_WORD_LANES; i += LL_SQUARE) {
            for (ptrdiff_t r = 0; r < LL_SQUARE; r++) {
                const uint16_t *from = w + least(i + r, count - 1) * w_row + 2 * q;
                prefetch_to_l2(from + ahead);
                row[r] = (const real *)(const void *)from;
            }
            for (ptrdiff_t p = 0; p < LL_LANES; p += LL_SQUARE)
                store_transposed(row, p, (real *)(void *)(packed + (q + p) * LL_WORD_LANES + i),
                                 LL_WORD_LANES);
        }
#endif
    (void)ahead;
    for (; q < word_count(kc); q++)
        for (ptrdiff_t i = 0; i < LL_WORD_LANES; i++)
            packed[q * LL_WORD_LANES + i] = word_at(w + least(i, count - 1) * w_row, w_col, 2 * q,
                                                    kc);
}

static void pack_words(const uint16_t *w, ptrdiff_t n, ptrdiff_t k, ptrdiff_t w_row,
                       ptrdiff_t w_col, uint32_t *packed)
{
    for (ptrdiff_t c = 0; c < n; c += LL_WORD_LANES, packed += word_count(k) * LL_WORD_LANES)
        pack_panel_of_words(w + c * w_row, least(LL_WORD_LANES, n - c), k, w_row, w_col, packed,
                            LL_WORD_LANES * w_row);
}

#if LL_REAL == 32

/* A panel of words as one of reals, feature by feature. */
LL_TEMPLATE void widen_type(const int type, const uint32_t *words, ptrdiff_t kc, real *panel)
{
    for (ptrdiff_t p = 0; p + 2 <= kc; p += 2, words += LL_WORD_LANES) {
        vstore(panel + p * LL_LANES, vlow(type, words));
        vstore(panel + (p + 1) * LL_LANES, vhigh(type, words));
    }
    if (kc % 2)
        vstore(panel + (kc - 1) * LL_LANES, vlow(type, words));
}
static void widen_panel(int type, const uint32_t *words, ptrdiff_t kc, real *panel)
{
    if (type == LL_BFLOAT16)
        widen_type(LL_BFLOAT16, words, kc, panel);
    else
        widen_type(LL_FLOAT16, words, kc, panel);
}

/* Words of KC features, or fewer, from pc on of the panel whose first class is c; unpacked they go
 * through `own`. */
static inline const uint32_t *panel_words(const ll_product *p, const void *weight, ptrdiff_t c,
                                          ptrdiff_t count, ptrdiff_t pc, ptrdiff_t kc,
                                          ptrdiff_t ahead, uint32_t *own)
{
    if (p->packed)
        return (const uint32_t *)class_at(p, weight, c) + pc / 2 * LL_WORD_LANES;
    pack_panel_of_words((const uint16_t *)class_at(p, weight, c) + pc * p->w_col,
                        least(count, LL_WORD_LANES), kc, p->w_row, p->w_col, own, ahead);
    return own;
}

/* The same as reals, of `count` classes. */
static void narrow_panels(const ll_product *p, const void *weight, ptrdiff_t c, ptrdiff_t count,
                          ptrdiff_t pc, ptrdiff_t kc, real *panels, ptrdiff_t ahead)
{
    uint32_t own[LL_KC / 2 * LL_WORD_LANES];

    for (ptrdiff_t j = 0; j < count; j += LL_WORD_LANES)
        widen_panel(p->type, panel_words(p, weight, c + j, count - j, pc, kc, ahead, own), kc,
                    panels + j * kc);
}

#endif

/* KC features, from pc on, of `count` classes from c on as panels of reals. */
static void make_panels(const ll_product *p, const void *weight, ptrdiff_t c, ptrdiff_t count,
                        ptrdiff_t pc, ptrdiff_t kc, real *panels)
{
    const ptrdiff_t ahead = pc + LL_KC < p->k ? LL_KC : LL_NV * LL_LANES * p->w_row - pc;

#if LL_REAL == 32
    if (is_narrow(p))
        narrow_panels(p, weight, c, count, pc, kc, panels, ahead);
    else
#endif
        pack_panels((const real *)weight + c * p->w_row + pc * p->w_col, count, kc, p->w_row,
                    p->w_col, panels, ahead);
}

#if LL_REAL == 32
/* ---- few rows ------------------------------------------------------------------------------ */

/* Half of the features of some words: see micro_step. */
LL_TEMPLATE void narrow_step(const int height, vec sum[LL_MR][LL_WIDE], const real *a, vec b)
{
    LL_UNROLL
    for (int i = 0; i < height; i++)
        sum[i][0] = vfma(vset(a[i]), b, sum[i][0]);
}

/* As micro_kernel, on words of one panel that come from memory, as those at `next` do then: several
 * panels side by side come slower. */
LL_TEMPLATE void narrow_kernel(const int height, const int type, ptrdiff_t kc, const real *a,
                               const uint32_t *b, const uint32_t *next, real *c, ptrdiff_t c_row,
                               int first, const real *bias)
{
    vec sum[LL_MR][LL_WIDE];

    LL_UNROLL
    for (int i = 0; i < height; i++)
        sum[i][0] = vset(0);
    LL_ROLLED
    for (ptrdiff_t p = 0; p + 2 <= kc; p += 2, a += 2 * height) {
        prefetch_to_l2(next);
        narrow_step(height, sum, a, vlow(type, b));
        narrow_step(height, sum, a + height, vhigh(type, b));
        b += LL_WORD_LANES;
        next += LL_WORD_LANES;
    }
    if (kc % 2)
        narrow_step(height, sum, a, vlow(type, b));
    store_sums(height, 1, sum, c, c_row, first, bias);
}

typedef void narrow_function(ptrdiff_t, const real *, const uint32_t *, const uint32_t *, real *,
                             ptrdiff_t, int, const real *);
#define LL_NARROW_OF(name, height, type)                                                         \
    static void name(ptrdiff_t kc, const real *a, const uint32_t *b, const uint32_t *next,       \
                     real *c, ptrdiff_t c_row, int first, const real *bias)                      \
    {                                                                                            \
        narrow_kernel(height, type, kc, a, b, next, c, c_row, first, bias);                      \
    }
#define LL_NARROW(height, _)                                                                     \
    LL_NARROW_OF(bfloat16_##height, height, LL_BFLOAT16)                                         \
    LL_NARROW_OF(float16_##height, height, LL_FLOAT16)
#define LL_BFLOAT16_NAME(height, _) bfloat16_##height,
#define LL_FLOAT16_NAME(height, _) float16_##height,
LL_HEIGHTS(LL_NARROW, )

static narrow_function *const narrow_functions[][LL_MR] = {
    { LL_HEIGHTS(LL_BFLOAT16_NAME, ) },
    { LL_HEIGHTS(LL_FLOAT16_NAME, ) },
};

/* KC features of few rows by a packed panel. */
static void multiply_narrow(int type, ptrdiff_t rows, ptrdiff_t kc, const real *a,
                            const uint32_t *b, const uint32_t *next, real *tile, ptrdiff_t t_row,
                            int first, const real *bias)
{
    for (ptrdiff_t i = 0, height; i < rows; i += height) {
        height = panel_height(i, rows);
        narrow_functions[type == LL_FLOAT16][height - 1](kc, a + i * kc, b, next,
                                                         tile + i * t_row, t_row, first, bias);
    }
}
#endif
