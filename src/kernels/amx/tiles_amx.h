/* tiles_amx.h: the one shape of tiles in use. Palette 1: eight tiles of 16 rows x 64 bytes. Static, since compilers do not
 * see that ldtilecfg reads all of it. */
#ifndef VM_KERNELS_TILES_AMX_H
#define VM_KERNELS_TILES_AMX_H

#include <stdint.h>

static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config __attribute__((aligned(64))) = {
    .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

#endif
