// y = W x + bias for a weight that pack_rounded.cpp has rounded to 8 bits, and inputs that are rounded
// like those of NF4 products. Sums are in the order that product_int8.h has.
#pragma once

#include "product_int8.h"

namespace {

// Weights that are codes already.
struct Codes {
    const uint8_t* lines;

    template <int step, int half>
    __m512i get(int64_t line) const {
        return _mm512_load_si512(lines + line * kRoundedLine + half * 64);
    }
};

// tile [rows, 32] = W x for one block, rows <= kTileRows.
inline void rounded_block(
    const uint8_t* packed, const RoundedOperands& x, int rows, float (*tile)[kBlockWidth]) {
    const int64_t size = rounded_record_size(x.scale_len);
    const int parts = (rows + kRows - 1) / kRows;
    memset(tile, 0, rows * sizeof *tile);
    for (int64_t start = 0; start < x.stride; start += x.scale_len, packed += size) {
        const float* scales = reinterpret_cast<const float*>(packed);
        for (int part = 0; part < parts; part++) {
            fetch_record(packed + kFetchedAhead * size, size, part, parts);
            const int from = rows * part / parts, to = rows * (part + 1) / parts;
            multiply_rows<Int8Arithmetic, kRows>(
                to - from, Codes{packed + kScaleBytes}, x.scale_len / 4, scales,
                x.at(from, start), tile + from);
        }
    }
}

// A row of a block to memory, past the caches where it fills a line of them: rows of results lie far
// apart, and to bring in their lines only to overwrite them would hold up the products.
inline void store_past_caches(Bf16* to, const Pair& row, int width) {
    if (width != kBlockWidth || reinterpret_cast<uintptr_t>(to) % 64) return store_block(to, row, width);
    const __m512bh line = _mm512_cvtne2ps_pbh(row.second, row.first);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(line));
}

inline void rounded_blocks(
    const DenseCall& call, const RoundedOperands& x, int64_t from, int64_t to) {
    const int64_t size = x.num_groups * rounded_record_size(x.scale_len);
    const auto* packed = static_cast<const uint8_t*>(call.weight);
    alignas(64) float tile[kTileRows][kBlockWidth];
    for (int64_t block = from; block < to; block++) {
        const int64_t column = block * kBlockWidth, left = call.out_features - column;
        const int width = left < kBlockWidth ? int(left) : kBlockWidth;
        const Bf16* bias = call.bias ? static_cast<const Bf16*>(call.bias) + column : nullptr;
        for (int64_t first = 0; first < call.num_tokens; first += kTileRows) {
            const int64_t more = call.num_tokens - first;
            const int rows = more < kTileRows ? int(more) : kTileRows;
            rounded_block(packed + block * size, x.at(first, 0), rows, tile);
            Bf16* y = static_cast<Bf16*>(call.y) + first * call.out_features + column;
            for (int row = 0; row < rows; row++, y += call.out_features) {
                Pair result = {load(tile[row]), load(tile[row] + 16)};
                if (bias) {
                    const Pair more = load_block(bias, width);
                    result = {add(result.first, more.first), add(result.second, more.second)};
                }
                store_past_caches(y, result, width);
            }
        }
    }
}

// 0, or 1 if there is no memory.
inline int rounded_dense(const DenseCall& call, int64_t scale_len) {
    RoundedOperands x;
    if (!x.reserve(call.num_tokens, call.in_features, scale_len, 0)) return 1;
    const int64_t num_blocks = (call.out_features + kBlockWidth - 1) / kBlockWidth;
    with_team(call.num_threads, [&](const Member& member) {
        const auto* inputs = static_cast<const Bf16*>(call.x);
        x.make(inputs, member.from(call.num_tokens), member.to(call.num_tokens));
        member.meet();
        member.share_out(num_blocks, [&](int64_t from, int64_t to) {
            rounded_blocks(call, x, from, to);
        });
        _mm_sfence();  // what went past the caches is there before the team parts
    });
    return 0;
}

}  // namespace
