/* The instructions of AMX that are used, one at a time. Compiled for the processor and for the double:
 * LL_AMX says which, STEPS is its name. */
#define LL_REAL 32
#define LL_ISA scalar
#define LL_VOCABULARY "../simd/scalar.h"
#include "base/base.inc.h"

#include LL_AMX

#include "tile_steps.h"

static void configure(int rows)
{
    amx_config config = { .palette = 1 };

    for (int t = 0; t < 3; t++) {
        config.rows[t] = (uint8_t)(t == 2 ? LL_AMX_ROWS : rows);
        config.bytes[t] = LL_AMX_BYTES;
    }
    amx_configure(&config);
}

static void dot_bf16(int rows, const void *a, const void *b, void *sums)
{
    configure(rows);
    amx_load(0, sums, LL_AMX_BYTES);
    amx_load(1, a, LL_AMX_BYTES);
    amx_load(2, b, LL_AMX_BYTES);
    amx_dot_bf16(0, 1, 2);
    amx_store(0, sums, LL_AMX_BYTES);
    amx_release();
}

static void dot_bytes(int rows, const void *a, const void *b, void *sums)
{
    configure(rows);
    amx_load(0, sums, LL_AMX_BYTES);
    amx_load(1, a, LL_AMX_BYTES);
    amx_load(2, b, LL_AMX_BYTES);
    amx_dot_bytes(0, 1, 2);
    amx_store(0, sums, LL_AMX_BYTES);
    amx_release();
}

static void move(int rows, const void *from, ptrdiff_t from_row, void *to, ptrdiff_t to_row)
{
    configure(rows);
    amx_zero(0);
    amx_load(0, from, from_row);
    amx_store(0, to, to_row);
    amx_release();
}

static int leaves_alone(void (*work)(void))
{
    amx_config before, after;
    int same = 1;

    for (int set = 0; set < 2; set++) {
        if (set)
            configure(3);
        amx_save(&before);
        work();
        amx_save(&after);
        same &= before.palette == set && !memcmp(&before, &after, sizeof before);
    }
    amx_release();
    return same;
}

const tile_steps STEPS = { dot_bf16, dot_bytes, move, leaves_alone };
