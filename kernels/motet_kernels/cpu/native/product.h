// The base product of one column block: a tile of W x in float32.
//
// What a row gets is one fixed sequence of operations: within a group of weights that share a
// scale, one sum over k from zero; then total = sum * scale + total, group after group. Rows are
// taken 1 to kRows at a time and weights are decoded on the fly or beforehand, which changes
// nothing of that sequence. So a row's bits do not depend on how many rows there are.
#pragma once

#include "fetcher.h"
#include "operands.h"
#include "partial.h"

namespace {

constexpr int kTileRows = 64;  // rows per tile: the tile, a panel and the inputs stay in the cache
constexpr int kFetchedAhead = 4;  // records
constexpr int kDirectRows = kRows;  // up to this many, decoding on the fly is cheaper

template <class M>
constexpr int kSteps = 4 / M::kDepth;  // weights in a line, for each half of the columns

// Weights decoded while they are multiplied: for few rows.
template <class M>
struct Packed {
    const uint8_t* lines;

    template <int step, int half>
    typename M::Weight get(int64_t line) const {
        return M::template weight<step, half>(lines + line * kLineBytes);
    }
};

// The weights of one group decoded once, for all rows of a tile. Kept as plain memory: copied as
// structs of two registers they would go through the stack, sixteen bytes at a time.
template <class M>
struct Panel {
    alignas(64) uint8_t weights[kMostScaleLen / 4][kSteps<M>][2][kLineBytes];

    template <int step, int half>
    typename M::Weight get(int64_t line) const {
        return M::read(weights[line][step][half]);
    }

    template <int step = 0>
    void decode(const uint8_t* line, int64_t index) {
        if constexpr (step < kSteps<M>) {
            M::write(weights[index][step][0], M::template weight<step, 0>(line));
            M::write(weights[index][step][1], M::template weight<step, 1>(line));
            decode<step + 1>(line, index);
        }
    }
};

// Weights decoded while they are multiplied, and kept for the rows that follow: the first rows'
// products leave the units that decode idle.
template <class M>
struct Unpacking {
    const uint8_t* lines;
    Panel<M>& panel;

    template <int step, int half>
    typename M::Weight get(int64_t line) const {
        const auto weight = M::template weight<step, half>(lines + line * kLineBytes);
        M::write(panel.weights[line][step][half], weight);
        return weight;
    }
};

// The next group's part of a row, before it is needed: rows lie too far apart for the hardware to
// foresee them, and only a few rows of a long K stay in the first cache. A fetch past the end does
// no harm.
template <class Input>
inline void fetch_input(const Input* x) {
    const char* line = reinterpret_cast<const char*>(x);
    const int bytes = int(kMostScaleLen * sizeof(Input));
    for (int offset = 0; offset < bytes; offset += 64) __builtin_prefetch(line + offset);
}

// A part of the record kFetchedAhead further, likewise: all of it at once would keep others from the
// memory.
inline void fetch_record(const uint8_t* packed, int64_t size, int part, int parts) {
    const int64_t lines = size / 64, stop = lines * (part + 1) / parts;
    for (int64_t line = lines * part / parts; line < stop; line++)
        fetch_line(packed + line * 64);
}

template <class M, int step, int num_rows, class Weights>
inline void multiply_line(
    const Weights& weights, int64_t line, const RowReader<typename M::Input, num_rows>& x,
    Floats (&totals)[num_rows][2]) {
    if constexpr (step < kSteps<M>) {
        const auto first = weights.template get<step, 0>(line);
        const auto second = weights.template get<step, 1>(line);
        for (int row = 0; row < num_rows; row++) {
            const auto input = M::spread(x.row(row) + step * M::kDepth);
            totals[row][0] = M::multiply(totals[row][0], input, first);
            totals[row][1] = M::multiply(totals[row][1], input, second);
        }
        multiply_line<M, step + 1, num_rows>(weights, line, x, totals);
    }
}

// tile[row] += scale * (group's product), for num_rows rows of x from this group's k on.
template <class M, int num_rows, class Weights>
inline void multiply_group(
    const Weights& weights, int64_t num_lines, const float* scales,
    const PlainOperands<typename M::Input>& x, float (*tile)[kBlockWidth]) {
    for (int row = 0; row < num_rows; row++) fetch_input(x.at(row, num_lines * 4).x);
    Floats totals[num_rows][2];
    for (auto& total : totals) total[0] = total[1] = splat(0.0f);
    RowReader<typename M::Input, num_rows> inputs(x.x, x.stride);
    for (int64_t line = 0; line < num_lines; line++) {
        multiply_line<M, 0, num_rows>(weights, line, inputs, totals);
        inputs.advance(4);
    }
    const Floats first = load(scales), second = load(scales + 16);
    for (int row = 0; row < num_rows; row++) {
        store(tile[row], fma(totals[row][0], first, load(tile[row])));
        store(tile[row] + 16, fma(totals[row][1], second, load(tile[row] + 16)));
    }
}

// The same for any number of rows up to kRows, by the instance made for it.
template <class M, int num_rows, class Weights>
inline void multiply_rows(
    int rows, const Weights& weights, int64_t num_lines, const float* scales,
    const typename M::Operands& x, float (*tile)[kBlockWidth]) {
    if constexpr (num_rows > 0) {
        if (rows == num_rows)
            multiply_group<M, num_rows>(weights, num_lines, scales, x, tile);
        else
            multiply_rows<M, num_rows - 1>(rows, weights, num_lines, scales, x, tile);
    }
}

// tile [rows, 32] = W x for one block's packed weight; x [rows, K], rows <= kTileRows. `fetcher` has
// a turn for each group of weights.
template <class M>
void block_product(
    const Group& group, const uint8_t* packed, const typename M::Operands& x, int rows,
    Fetcher& fetcher, float (*tile)[kBlockWidth]) {
    const int64_t num_lines = group.scale_len / 4;
    const int64_t size = record_size(group.scale_len);
    memset(tile, 0, rows * sizeof *tile);
    for (int64_t start = 0; start < group.in_features; start += group.scale_len) {
        const float* scales = reinterpret_cast<const float*>(packed);
        const uint8_t* lines = packed + kScaleBytes;
        const int parts = (rows + kRows - 1) / kRows;
        fetch_record(packed + kFetchedAhead * size, size, 0, parts);
        fetcher.fetch_some();
        if (rows <= kDirectRows) {
            const Packed<M> weights{lines};
            multiply_rows<M, kDirectRows>(rows, weights, num_lines, scales, x.at(0, start), tile);
        } else {
            Panel<M> panel;
            // evenly, because a single last row would wait for its own sums
            const int first = rows / parts;
            multiply_rows<M, kRows>(
                first, Unpacking<M>{lines, panel}, num_lines, scales, x.at(0, start), tile);
            for (int part = 1; part < parts; part++) {
                fetch_record(packed + kFetchedAhead * size, size, part, parts);
                fetcher.fetch_some();
                const int from = rows * part / parts, to = rows * (part + 1) / parts;
                multiply_rows<M, kRows>(
                    to - from, panel, num_lines, scales, x.at(from, start), tile + from);
            }
        }
        packed += size;
    }
}

}  // namespace
