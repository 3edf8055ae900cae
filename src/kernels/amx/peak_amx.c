/* peak_amx.c: the peak of the tiles' bf16 products, 16 x 16 x 32 multiply-adds an instruction. */
#include "kernels/amx/tiles_amx.h"
#include "kernels/peak.h"

#include <immintrin.h>

static float run(const void *data, int steps) {
    const char *tiles = data;
    float out[256];
    _tile_loadconfig(&tile_config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, tiles, 64);
    _tile_loadd(5, tiles + 1024, 64);
    _tile_loadd(6, tiles + 2048, 64);
    _tile_loadd(7, tiles + 3072, 64);
    for (int s = 0; s < steps; s++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 7);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 6);
    }
    _tile_stored(0, out, 64);
    _tile_release();
    return out[0];
}

const vm_peak_kernel vm_peak_amx = {run, 4 * 16384.0};
