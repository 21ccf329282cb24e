// The NF4 table and the packed layout that pack.cpp describes.
#pragma once

#include <cstdint>

#include "abi.h"

namespace {

// QLoRA, https://arxiv.org/abs/2305.14314, appendix E.
alignas(64) constexpr float kNf4[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

constexpr int64_t kScaleBytes = kBlockWidth * sizeof(float);
constexpr int64_t kLineBytes = 64;    // codes of 4 k and 32 columns
constexpr int64_t kMostScaleLen = 64;  // bitsandbytes' block

constexpr int64_t record_size(int64_t scale_len) {
    return kScaleBytes + scale_len / 4 * kLineBytes;
}

// Where in a line's word the code of k = 0..3 lies, for the first or last 16 columns.
constexpr int nibble_shift(int k, int half) { return 16 * (k & 1) + 8 * (k >> 1) + 4 * half; }

}  // namespace
