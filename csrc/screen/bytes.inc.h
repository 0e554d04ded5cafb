/* The product of bytes: a tile of exact sums of int32. As in gemm.inc.h, but all features go through
 * at once: a panel of bytes is a quarter as large. While some panels are in use, those at `next`
 * come into the cache. */

#define LL_BYTE_HEIGHT LL_BYTE_ROWS /* rows of a micro-panel, at most */

/* Nothing has to be set for it. */
typedef struct {
    int nothing;
} byte_mode;
static inline void begin_bytes(byte_mode *mode) { mode->nothing = 0; }
static inline void end_bytes(const byte_mode *mode) { (void)mode; }

/* Rows are packed in micro-panels of so many, the last perhaps of fewer. */
static inline ptrdiff_t byte_height(ptrdiff_t rows)
{
    ptrdiff_t panels = (rows + LL_BYTE_ROWS - 1) / LL_BYTE_ROWS;
    return (rows + panels - 1) / panels;
}

static size_t row_bytes(ptrdiff_t rows, ptrdiff_t k)
{
    return (size_t)(rows * quads(k)) * sizeof(word);
}

/* Where the words of a row, or of the second level of one, begin, and how far they are apart: these
 * lie in one sequence, as micro-panels. */
typedef struct {
    word *at;
    ptrdiff_t apart, left;
} row_place;

static row_place place_of(const ll_screen *s, void *packed, ptrdiff_t i)
{
    ptrdiff_t rows = s->rows * s->levels, height = byte_height(rows), panel = i / height * height;
    row_place found = { (word *)packed + panel * quads(s->k) + i - panel,
                        least(height, rows - panel), quads(s->k) };
    return found;
}

/* A word of a row packed alone in two levels. */
static inline word level_word(const void *packed, ptrdiff_t quad, int level)
{
    return ((const word *)packed)[2 * quad + level];
}

/* Whole numbers of LL_LANES features as words. */
static inline void put_bytes(row_place *to, vec q)
{
    int8_t bytes[LL_LANES];

    qstore(bytes, q);
    for (int j = 0; j < LL_LANES && to->left > 0; j += LL_QUAD, to->left--) {
        *to->at = make_word(bytes + j);
        to->at += to->apart;
    }
}

LL_TEMPLATE void byte_kernel(const int height, const int width, ptrdiff_t steps, const word *a,
                             const uint8_t *b, ptrdiff_t b_panel, const uint8_t *next,
                             const int32_t *start, int32_t *tile, ptrdiff_t t_row)
{
    ivec sum[LL_BYTE_ROWS][LL_BYTE_MOST];

    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++)
            sum[i][j] = iset(start[i]);
    LL_ROLLED
    for (ptrdiff_t q = 0; q < steps; q++, a += height, b += LL_STEP, next += LL_STEP) {
        quad_bytes bj[LL_BYTE_MOST];
        LL_UNROLL
        for (int j = 0; j < width; j++) {
            prefetch_to_l2(next + j * b_panel);
            bj[j] = bload(b + j * b_panel);
        }
        LL_UNROLL
        for (int i = 0; i < height; i++)
            LL_UNROLL
            for (int j = 0; j < width; j++)
                sum[i][j] = idot(sum[i][j], bj[j], a[i]);
    }
    LL_UNROLL
    for (int i = 0; i < height; i++)
        LL_UNROLL
        for (int j = 0; j < width; j++)
            istore(tile + i * t_row + j * LL_SCREEN_LANES, sum[i][j]);
}

typedef void byte_function(ptrdiff_t, const word *, const uint8_t *, ptrdiff_t, const uint8_t *,
                           const int32_t *, int32_t *, ptrdiff_t);
#define LL_BYTES_OF(height, width)                                                               \
    static void bytes_##height##_##width(ptrdiff_t steps, const word *a, const uint8_t *b,       \
                                         ptrdiff_t b_panel, const uint8_t *next,                 \
                                         const int32_t *start, int32_t *tile, ptrdiff_t t_row)   \
    {                                                                                            \
        byte_kernel(height, width, steps, a, b, b_panel, next, start, tile, t_row);              \
    }
#define LL_BYTES_NAME(height, width) bytes_##height##_##width,
#define LL_BYTE_HEIGHTS(of, width) LL_JOIN(LL_UP_TO, LL_BYTE_ROWS)(of, width)

LL_BYTE_HEIGHTS(LL_BYTES_OF, 1)
#if LL_BYTE_WIDE == 2
LL_BYTE_HEIGHTS(LL_BYTES_OF, 2)
LL_UP_TO_6(LL_BYTES_OF, 4)
#endif

static byte_function *const byte_functions[][LL_BYTE_ROWS] = {
    { LL_BYTE_HEIGHTS(LL_BYTES_NAME, 1) },
#if LL_BYTE_WIDE == 2
    { LL_BYTE_HEIGHTS(LL_BYTES_NAME, 2) },
    { NULL },
    { LL_UP_TO_6(LL_BYTES_NAME, 4) },
#endif
};

/* The widest micro-kernel there is for so many rows and panels: 4, 2 or 1. */
static inline ptrdiff_t byte_width(ptrdiff_t height, ptrdiff_t panels)
{
    ptrdiff_t width = 2 * height <= LL_BYTE_ROWS ? LL_BYTE_MOST : LL_BYTE_WIDE;
    while (width > panels)
        width /= 2;
    return width;
}

/* Rows and second levels from i on, whole micro-panels, by panels of classes into the tile: each
 * micro-panel of classes stays in L1 while the rows pass by. After them come those at `next`. */
static void multiply_bytes(const ll_screen *s, ptrdiff_t i, ptrdiff_t rows, const uint8_t *b,
                           ptrdiff_t panels, const uint8_t *next, int32_t *tile, ptrdiff_t t_row,
                           byte_mode *mode)
{
    ptrdiff_t steps = quads(s->k), b_panel = steps * LL_STEP;
    ptrdiff_t most = byte_height(s->rows * s->levels);
    const word *x = (const word *)s->x + i * steps;

    (void)mode;
    for (ptrdiff_t j = 0, width; j < panels; j += width, b += width * b_panel) {
        width = byte_width(most, panels - j);
        const uint8_t *then = j + width < panels ? b + width * b_panel : next;
        for (ptrdiff_t r = 0, height; r < rows; r += height) {
            height = least(most, rows - r);
            byte_functions[width - 1][height - 1](steps, x + r * steps, b, b_panel,
                                                  then, s->start + i + r,
                                                  tile + r * t_row + j * LL_SCREEN_LANES, t_row);
        }
    }
}
