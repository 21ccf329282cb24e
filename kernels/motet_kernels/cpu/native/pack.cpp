// The packed form of an NF4 weight [N, K], read by every level.
//
// Columns go by blocks of 32 (a block's missing columns are zero), and within a block K goes by
// groups of `scale_len` weights that share a scale. A group is one record:
//
//     32 float scales | scale_len / 4 lines of 64 bytes, each the codes of 4 k and 32 columns
//
// so that a thread that walks its blocks reads one stream. A line is 16 little-endian words, word i
// for columns i and i + 16. Seen as 32 half words, shifting by 0, 4, 8, 12 gives the table indices
// of a bf16 pair (k, k + 1) in the order a bf16 dot product wants; seen as 16 words, the same line
// shifted by a multiple of 4 gives the indices of 16 float columns.

#include <cstring>

#include "abi.h"
#include "nf4.h"

namespace {

constexpr uint32_t kZeroCode = 7;

uint32_t code_at(const uint8_t* codes, int64_t index) {
    const uint8_t byte = codes[index >> 1];
    return index & 1 ? byte & 15 : byte >> 4;  // the earlier element is in the high nibble
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int64_t motet_packed_size(
    int64_t n, int64_t k, int64_t scale_len) {
    const int64_t num_blocks = (n + kBlockWidth - 1) / kBlockWidth;
    return num_blocks * (k / scale_len) * record_size(scale_len);
}

// codes, absmax: as bitsandbytes returns them, blocks of 64 along the flattened weight. scale_len
// divides 64 and K and is at least 4, so that a group never crosses a block of bitsandbytes'.
__attribute__((visibility("default"))) void motet_pack(
    const uint8_t* codes, const float* absmax, int64_t n, int64_t k, int64_t scale_len,
    uint8_t* packed) {
    for (int64_t first = 0; first < n; first += kBlockWidth) {
        for (int64_t start = 0; start < k; start += scale_len) {
            float* scales = reinterpret_cast<float*>(packed);
            uint32_t* words = reinterpret_cast<uint32_t*>(packed + kScaleBytes);
            memset(packed, 0, record_size(scale_len));
            for (int column = 0; column < kBlockWidth; column++) {
                const int64_t row = (first + column) * k + start;
                const bool exists = first + column < n;
                if (exists) scales[column] = absmax[row / 64];
                for (int64_t i = 0; i < scale_len; i++) {
                    const uint32_t code = exists ? code_at(codes, row + i) : kZeroCode;
                    uint32_t& word = words[i / 4 * 16 + column % 16];
                    word |= code << nibble_shift(i % 4, column / 16);
                }
            }
            packed += record_size(scale_len);
        }
    }
}

}  // extern "C"
