// An unquantised weight [N, K] rounded to 8 bits, for rounded_dense.h.
//
// Blocks of 32 columns and groups of `scale_len` k as in pack.cpp, a record each:
//
//     32 float scales | scale_len / 4 lines of 128 bytes, each the codes of 4 k and 32 columns
//
// A line is 32 words, word i for column i, whose bytes are k = 0, 2, 1, 3: the order of the inputs'
// codes. A code is the weight over its group's largest magnitude, times 127, rounded, plus
// kTableOffset; a scale is that magnitude / 127 * kTableFactor, which the inputs' factors take back.

#include <cmath>
#include <cstring>

#include "rounding.h"

namespace {

float widened(Bf16 element) {
    const uint32_t bits = static_cast<uint32_t>(element.bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float largest_of(const Bf16* weights, int64_t count) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; i++) {
        const float magnitude = std::fabs(widened(weights[i]));
        if (!(magnitude <= largest)) largest = magnitude;  // NaN too, and for good
        if (largest != largest) break;
    }
    return largest;
}

// Codes of `count` weights of one column into every fourth byte of their lines.
void write_codes(const Bf16* weights, int64_t count, float largest, uint8_t* codes) {
    const bool is_zero = !(largest >= kLeastOfGroup && largest <= kMostOfGroup);
    const float inverse = is_zero ? 0.0f : kMostOfCode / largest;
    for (int64_t i = 0; i < count; i++) {
        const float whole = is_zero ? 0.0f : std::nearbyint(widened(weights[i]) * inverse);
        constexpr int kPlaces[4] = {0, 2, 1, 3};
        codes[i / 4 * kRoundedLine + kPlaces[i % 4]] = uint8_t(int(whole) + kTableOffset);
    }
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int64_t motet_rounded_size(
    int64_t n, int64_t k, int64_t scale_len) {
    const int64_t num_blocks = (n + kBlockWidth - 1) / kBlockWidth;
    return num_blocks * (k / scale_len) * rounded_record_size(scale_len);
}

// weight [n, k], contiguous; scale_len divides K and 64 and is at least 4. Missing columns of the last
// block are zero.
__attribute__((visibility("default"))) void motet_pack_rounded(
    const Bf16* weight, int64_t n, int64_t k, int64_t scale_len, uint8_t* packed) {
    const int64_t size = rounded_record_size(scale_len);
    for (int64_t first = 0; first < n; first += kBlockWidth) {
        for (int64_t start = 0; start < k; start += scale_len, packed += size) {
            float* scales = reinterpret_cast<float*>(packed);
            memset(scales, 0, kScaleBytes);
            memset(packed + kScaleBytes, kTableOffset, size - kScaleBytes);
            for (int column = 0; column < kBlockWidth && first + column < n; column++) {
                const Bf16* row = weight + (first + column) * k + start;
                const float largest = largest_of(row, scale_len);
                scales[column] = largest > kMostOfGroup || largest != largest
                                     ? largest - largest
                                     : largest / kMostOfCode * kTableFactor;
                write_codes(row, scale_len, largest, packed + kScaleBytes + column * 4);
            }
        }
    }
}

}  // extern "C"
