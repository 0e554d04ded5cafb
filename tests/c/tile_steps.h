/* Single instructions of AMX, by the processor or by the double in plain C. */
#ifndef TILE_STEPS_H
#define TILE_STEPS_H

#include <stddef.h>

typedef struct {
    /* sums += a * b, of so many rows of 64 bytes; b has 16. */
    void (*dot_bf16)(int rows, const void *a, const void *b, void *sums);
    void (*dot_bytes)(int rows, const void *a, const void *b, void *sums);
    /* Rows of 64 bytes, so far apart. */
    void (*move)(int rows, const void *from, ptrdiff_t from_row, void *to, ptrdiff_t to_row);
    /* Whether `work` finds and leaves registers as they were, in use or not. */
    int (*leaves_alone)(void (*work)(void));
} tile_steps;

extern const tile_steps tile_steps_amx, tile_steps_double;

#endif
