// c [16, 16] += a [16, 32] b [16, 32] by one AMX tile instruction, or with MOTET_EMULATE_AMX by its
// emulation; b in pairs of k, c float32.

#include "tiles.h"

#ifdef MOTET_EMULATE_AMX
#define TILE_PRODUCT emulated_tile_product
#else
#define TILE_PRODUCT tile_product
#endif

extern "C" void TILE_PRODUCT(const uint16_t* a, const uint16_t* b, float* c) {
    const TileSession session;
    tile_load<0>(c, 64);
    tile_load<1>(a, 64);
    tile_load<2>(b, 64);
    tile_multiply<0, 1, 2>();
    tile_store<0>(c, 64);
}
