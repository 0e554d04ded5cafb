/* What AMX is set to: how much there is of each of its registers. */
#ifndef LL_SIMD_AMX_CONFIG_H
#define LL_SIMD_AMX_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#define LL_AMX_REGISTERS 8
#define LL_AMX_ROWS 16  /* of a register, at most, ... */
#define LL_AMX_BYTES 64 /* ... each of so many */

typedef struct {
    uint8_t palette, start_row, zeros[14];
    uint16_t bytes[16]; /* of a row of each register */
    uint8_t rows[16];
} amx_config;
_Static_assert(sizeof(amx_config) == 64, "as the processor has it");

#endif
