// The AMX operations that a product needs: eight tiles of 16 rows of 64 bytes, and
//
//     C[m][n] += sum over k of A[m][2k] B[k][2n] + A[m][2k + 1] B[k][2n + 1]
//
// for bf16 A and B and float32 C. The order is TDPBF16PS's, from Intel's manual: the products of
// even k are added up from zero by fused multiply-adds, those of odd k likewise, then the two sums
// are added, then their sum to C. Every operation rounds to nearest even, takes denormals as zero
// and flushes them to zero.
//
// In assembly, because a compiler's intrinsics want a tile's number as a digit in the source, and
// gcc's loads do not say that they read memory, so that what was written there may come later.
//
// With MOTET_EMULATE_AMX the same operations in software, for tests on processors without AMX.
#pragma once

#include <cstdint>

namespace {

constexpr int kAmxRows = 16;
constexpr int kAmxBytes = 64;  // of a row

// As LDTILECFG wants it.
struct TileConfig {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace

#ifdef MOTET_EMULATE_AMX
#include "tiles_emulated.h"
#else

namespace {

inline void load_config(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }

inline void store_config(TileConfig& config) { asm volatile("sttilecfg %0" : "=m"(config)); }

template <int t>
inline void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(t));
}

// Rows from memory, `stride` bytes apart.
template <int t>
inline void tile_load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(t) : "memory");
}

template <int t>
inline void tile_store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(t) : "memory");
}

// C += A B
template <int c, int a, int b>
inline void tile_multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

}  // namespace

#endif

namespace {

// Eight whole tiles.
constexpr TileConfig kWholeTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// This thread's tiles, configured while the session lives. torch's products configure tiles on the
// same threads, and may count on finding them as they left them: so they do.
class TileSession {
public:
    TileSession() {
        store_config(before_);
        load_config(kWholeTiles);
    }
    ~TileSession() { load_config(before_); }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;

private:
    TileConfig before_;
};

}  // namespace
