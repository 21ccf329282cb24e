// The base product of one column block with AMX; everything else is done as with AVX512-BF16.
//
// As in product.h a row gets one fixed sequence of operations: within a group of weights that share
// a scale, one tile of 32 k after the other, from zero; then total = sum * scale + total, group
// after group. Which of a tile's 16 rows it is, and what is in the others, changes nothing of that
// sequence, and one row alone takes it too. Groups of fewer than 32 k are filled up with zeros.
#pragma once

#include "arithmetic_bf16.h"
#include "product.h"
#include "tiles.h"

namespace {

struct AmxArithmetic : Bf16Arithmetic {
    using Session = TileSession;
    static constexpr int64_t kTokensApart = 128;  // a guess: decoding should take longer than multiplying
};

constexpr int kAmxDepth = kAmxBytes / sizeof(Bf16);  // k of a tile of inputs

using AmxPanel = Panel<Bf16Arithmetic>;  // a pair of k of 16 columns in 64 bytes: a tile's row

struct AmxWork {
    AmxPanel panel;
    alignas(64) Bf16 inputs[kAmxRows][kAmxDepth];
    alignas(64) float sums[2 * kAmxRows][kBlockWidth];
};

// A tile of inputs: in place where it is whole, or else from a copy. The copy's missing rows hold
// zeros or earlier rows, which only reach sums that nobody reads.
template <int t>
inline void load_inputs(AmxWork& work, const Bf16* x, int64_t stride, int rows, int depth) {
    if (rows >= kAmxRows && depth == kAmxDepth)
        return tile_load<t>(x, stride * int64_t(sizeof(Bf16)));
    for (int row = 0; row < rows && row < kAmxRows; row++)
        memcpy(work.inputs[row], x + row * stride, depth * sizeof(Bf16));
    tile_load<t>(work.inputs, sizeof *work.inputs);
}

// tile[row] += scale * (group's product) for up to 16 rows, or for 17 to 32.
template <int row_tiles>
inline void multiply_group_amx(
    AmxWork& work, int64_t scale_len, const float* scales, const Bf16* x, int64_t stride,
    int rows, float (*tile)[kBlockWidth]) {
    constexpr int64_t weights_stride = sizeof work.panel.weights[0][0];
    constexpr int64_t sums_stride = sizeof *work.sums;
    tile_zero<0>();
    tile_zero<1>();
    if constexpr (row_tiles == 2) {
        tile_zero<2>();
        tile_zero<3>();
    }
    for (int64_t k = 0; k < scale_len; k += kAmxDepth) {
        const int depth = scale_len < kAmxDepth ? int(scale_len) : kAmxDepth;
        tile_load<6>(work.panel.weights[k / 4][0][0], weights_stride);
        tile_load<7>(work.panel.weights[k / 4][0][1], weights_stride);
        load_inputs<4>(work, x + k, stride, rows, depth);
        tile_multiply<0, 4, 6>();
        tile_multiply<1, 4, 7>();
        if constexpr (row_tiles == 2) {
            load_inputs<5>(work, x + kAmxRows * stride + k, stride, rows - kAmxRows, depth);
            tile_multiply<2, 5, 6>();
            tile_multiply<3, 5, 7>();
        }
    }
    tile_store<0>(work.sums[0], sums_stride);
    tile_store<1>(work.sums[0] + 16, sums_stride);
    if constexpr (row_tiles == 2) {
        tile_store<2>(work.sums[kAmxRows], sums_stride);
        tile_store<3>(work.sums[kAmxRows] + 16, sums_stride);
    }
    const auto* sums = work.sums;
    const Floats first = load(scales), second = load(scales + 16);
    for (int row = 0; row < rows; row++) {
        store(tile[row], fma(load(sums[row]), first, load(tile[row])));
        store(tile[row] + 16, fma(load(sums[row] + 16), second, load(tile[row] + 16)));
    }
}

template <>
inline void block_product<AmxArithmetic>(
    const Group& group, const uint8_t* packed, const PlainOperands<Bf16>& inputs, int rows,
    Fetcher& fetcher, float (*tile)[kBlockWidth]) {
    const int64_t scale_len = group.scale_len, stride = inputs.stride;
    const Bf16* x = inputs.x;
    const int64_t size = record_size(scale_len);
    AmxWork work;
    memset(work.inputs, 0, sizeof work.inputs);
    if (scale_len < kAmxDepth) memset(&work.panel, 0, sizeof work.panel);
    memset(tile, 0, rows * sizeof *tile);
    for (int64_t start = 0; start < group.in_features; start += scale_len) {
        const float* scales = reinterpret_cast<const float*>(packed);
        const uint8_t* lines = packed + kScaleBytes;
        fetch_record(packed + kFetchedAhead * size, size, 0, 1);
        fetcher.fetch_some();
        for (int64_t line = 0; line < scale_len / 4; line++)
            work.panel.decode(lines + line * kLineBytes, line);
        for (int from = 0; from < rows; from += 2 * kAmxRows) {
            const int left = rows - from < 2 * kAmxRows ? rows - from : 2 * kAmxRows;
            const auto multiply = left > kAmxRows ? multiply_group_amx<2> : multiply_group_amx<1>;
            multiply(work, scale_len, scales, x + from * stride + start, stride, left, tile + from);
        }
        packed += size;
    }
}

}  // namespace
