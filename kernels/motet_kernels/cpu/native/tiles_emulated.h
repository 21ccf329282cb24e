// tiles.h's operations in software, bit for bit as Intel's manual defines them
// (https://www.felixcloutier.com/x86/tdpbf16ps renders it), with AVX-512. What a processor answers
// with an invalid-opcode fault ends the process here too.
#pragma once

#include <immintrin.h>

#include <cstdlib>
#include <cstring>

namespace {

struct Tiles {
    TileConfig config;
    alignas(64) uint8_t data[8][kAmxRows][kAmxBytes];  // zero past a tile's configured size
};

thread_local Tiles tiles;

inline void fault_unless(bool valid) {
    if (!valid) std::abort();
}

inline void fault_unless_configured(int t) {
    fault_unless(tiles.config.palette == 1 && tiles.config.rows[t] && tiles.config.row_bytes[t]);
}

inline void load_config(const TileConfig& config) {
    fault_unless(config.palette <= 1);
    memset(&tiles, 0, sizeof tiles);
    if (config.palette == 1) tiles.config = config;
}

inline void store_config(TileConfig& config) { config = tiles.config; }

template <int t>
inline void tile_zero() {
    fault_unless_configured(t);
    memset(tiles.data[t], 0, sizeof tiles.data[t]);
}

template <int t>
inline void tile_load(const void* from, int64_t stride) {
    tile_zero<t>();
    const uint8_t* row = static_cast<const uint8_t*>(from);
    for (int i = 0; i < tiles.config.rows[t]; i++, row += stride)
        memcpy(tiles.data[t][i], row, tiles.config.row_bytes[t]);
}

template <int t>
inline void tile_store(void* to, int64_t stride) {
    fault_unless_configured(t);
    uint8_t* row = static_cast<uint8_t*>(to);
    for (int i = 0; i < tiles.config.rows[t]; i++, row += stride)
        memcpy(row, tiles.data[t][i], tiles.config.row_bytes[t]);
}

// The first (or second) bf16 of every pair, as floats.
inline __m512 firsts(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }

inline __m512 seconds(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000))));
}

// One row of C. Not inlined, so that it stays where the rounding mode is set.
__attribute__((noinline)) void multiply_row(
    const uint8_t* a, const uint8_t (*b)[kAmxBytes], uint8_t* c, int num_pairs) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < num_pairs; k++) {
        int32_t pair;
        memcpy(&pair, a + 4 * k, sizeof pair);
        const __m512i inputs = _mm512_set1_epi32(pair), weights = _mm512_load_si512(b[k]);
        even = _mm512_fmadd_ps(firsts(inputs), firsts(weights), even);
        odd = _mm512_fmadd_ps(seconds(inputs), seconds(weights), odd);
    }
    const __m512 total = _mm512_load_ps(reinterpret_cast<const float*>(c));
    _mm512_store_ps(
        reinterpret_cast<float*>(c), _mm512_add_ps(total, _mm512_add_ps(even, odd)));
}

template <int c, int a, int b>
inline void tile_multiply() {
    const TileConfig& config = tiles.config;
    fault_unless_configured(a);
    fault_unless_configured(b);
    fault_unless_configured(c);
    fault_unless(a != b && b != c && c != a);
    fault_unless(config.rows[c] == config.rows[a] && config.row_bytes[c] == config.row_bytes[b]);
    fault_unless(config.row_bytes[a] == 4 * config.rows[b]);
    const unsigned before = _mm_getcsr();
    _mm_setcsr(0x9fc0);  // nearest even, denormals as zero and to zero, nothing trapped
    asm volatile("" ::: "memory");
    for (int m = 0; m < config.rows[c]; m++)
        multiply_row(tiles.data[a][m], tiles.data[b], tiles.data[c][m], config.rows[b]);
    asm volatile("" ::: "memory");
    _mm_setcsr(before);
}

}  // namespace
