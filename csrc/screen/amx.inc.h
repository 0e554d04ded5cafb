/* The product of bytes by tiles, in place of bytes.inc.h: one instruction is 64 features of 16 rows and
 * 16 classes, whose bytes lie as it wants them. Rows are packed as base/amx.inc.h has them; what is
 * behind the last feature meets zeros. */
#define LL_AMX_DOT amx_dot_bytes
#include "../base/amx.inc.h"

#define LL_BYTE_HEIGHT LL_AMX_ROWS /* rows of a micro-panel */

LL_HOLDS(LL_STEP * LL_AMX_ROWS == LL_AMX_TILE);
LL_HOLDS(LL_SCAN_ROWS <= 2 * LL_AMX_ROWS); /* so has a tile */

typedef amx_mode byte_mode;
static inline void begin_bytes(byte_mode *mode) { amx_begin(mode); }
static inline void end_bytes(const byte_mode *mode) { amx_end(mode); }

static inline ptrdiff_t byte_height(ptrdiff_t rows)
{
    (void)rows;
    return LL_BYTE_HEIGHT;
}

/* Bytes of a packed row: whole steps. */
static inline ptrdiff_t row_size(ptrdiff_t k)
{
    return (k + LL_AMX_BYTES - 1) / LL_AMX_BYTES * LL_AMX_BYTES;
}

static size_t row_bytes(ptrdiff_t rows, ptrdiff_t k) { return (size_t)(rows * row_size(k)); }

/* Where the bytes of a row, or of the second level of one, go on, how many a step has by now, and how
 * far steps are apart: rows and levels lie in one sequence, as micro-panels. */
typedef struct {
    int8_t *at;
    ptrdiff_t used, apart;
} row_place;

static row_place place_of(const ll_screen *s, void *packed, ptrdiff_t i)
{
    ptrdiff_t panel = i / LL_AMX_ROWS * LL_AMX_ROWS, size = row_size(s->k);
    ptrdiff_t apart = least(LL_AMX_ROWS, s->rows * s->levels - panel) * LL_AMX_BYTES;
    row_place found = { (int8_t *)packed + panel * size + (i - panel) * LL_AMX_BYTES, 0, apart };
    return found;
}

/* A word of a row packed alone in two levels. */
static inline word level_word(const void *packed, ptrdiff_t quad, int level)
{
    const ptrdiff_t step = LL_AMX_BYTES / LL_QUAD;
    return make_word((const int8_t *)packed + (quad / step * 2 + level) * LL_AMX_BYTES
                     + quad % step * LL_QUAD);
}

/* Whole numbers of LL_LANES features as bytes. */
static inline void put_bytes(row_place *to, vec q)
{
    qstore(to->at + to->used, q);
    to->used += LL_LANES;
    if (to->used == LL_AMX_BYTES) {
        to->used = 0;
        to->at += to->apart;
    }
}

/* Rows and second levels from i on, those of a tile, by panels of classes into the tile. Each time a
 * share of the panels at `next` comes into L2, so that all are there when all rows have passed by. */
static void multiply_bytes(const ll_screen *s, ptrdiff_t i, ptrdiff_t rows, const uint8_t *b,
                           ptrdiff_t panels, const uint8_t *next, int32_t *tile, ptrdiff_t t_row,
                           byte_mode *mode)
{
    const ptrdiff_t groups = (panels + LL_AMX_PANELS - 1) / LL_AMX_PANELS;
    const ptrdiff_t b_panel = quads(s->k) * LL_STEP, whole = s->k / LL_AMX_BYTES * LL_AMX_BYTES;
    const ptrdiff_t share = panels * b_panel / (s->rows * s->levels);
    int32_t start[2 * LL_AMX_ROWS * LL_SCREEN_LANES];
    amx_product p = {
        .rows = rows, .panels = panels,
        .a = (const char *)s->x + i * row_size(s->k), .a_row = row_size(s->k),
        .steps = whole / LL_AMX_BYTES, .tail = quads(s->k - whole) * LL_STEP,
        .b = (const char *)b, .b_panel = b_panel,
        .start = start, .start_row = LL_AMX_BYTES,
        .sums = (char *)tile, .row = t_row * (ptrdiff_t)sizeof *tile,
        .next = (const char *)next + i * share, .share = rows * share / groups,
    };

    for (ptrdiff_t r = 0; r < rows; r++)
        istore(start + r * LL_SCREEN_LANES, iset(s->start[i + r]));
    amx_multiply(&p, mode);
}

static double spin(ptrdiff_t rounds) { return amx_spin(rounds, LL_AMX_BYTES); }
