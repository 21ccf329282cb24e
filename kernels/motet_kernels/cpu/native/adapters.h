// The adapter half of a group: u = A x for every segment's rows, then B u, gains and biases on top
// of a tile of W x, rounded once.
//
// A dot product of A's runs over k in one order, and B's over the rank, whatever the number of
// rows: tiles of rows and ranks only share loads.
#pragma once

#include "fetcher.h"
#include "linear_call.h"
#include "repeat.h"

namespace {

constexpr int kTokenTile = 4;   // of A x
constexpr int kFinishTile = 8;  // of B u: rows that share what is read of B

// u[i, j] = A[j] x[i] for `tokens` rows of x and kRankTile rows of A, of which `ranks` exist. `next`:
// the rows of A that are wanted after these, to be fetched.
template <class M, int tokens>
inline void shrink_tile(
    const typename M::Input* x, const typename M::Stored* a, const typename M::Stored* next,
    int64_t k, int ranks, int64_t rank, float* u) {
    const typename M::Stored* rows[kRankTile];
    for (int j = 0; j < kRankTile; j++) rows[j] = a + (j < ranks ? j : ranks - 1) * k;
    Floats totals[tokens][kRankTile];
    repeat<tokens * kRankTile>([&](auto n) { totals[n / kRankTile][n % kRankTile] = splat(0.0f); });
    const auto multiply = [&](int64_t start, int count) __attribute__((always_inline)) {
        repeat<tokens * kRankTile>([&](auto n) {
            constexpr int i = n % tokens, j = n / tokens;
            totals[i][j] = M::dot(totals[i][j], x + i * k + start, rows[j] + start, count);
        });
    };
    int64_t start = 0;
    for (; start + M::kReach <= k; start += M::kReach) {
        for (int j = 0; j < kRankTile; j++) fetch_line(next + j * k + start);
        multiply(start, M::kReach);
    }
    if (start < k) multiply(start, int(k - start));
    repeat<tokens * kRankTile>([&](auto n) {
        constexpr int i = n / kRankTile, j = n % kRankTile;
        if (j < ranks) u[i * rank + j] = sum(totals[i][j]);
    });
}

template <class M, int tokens>
inline void shrink_tokens(
    int64_t num_tokens, const typename M::Input* x, const typename M::Stored* a,
    const typename M::Stored* next, int64_t k, int ranks, int64_t rank, float* u) {
    if constexpr (tokens > 0) {
        int64_t i = 0;
        for (; i + tokens <= num_tokens; i += tokens)
            shrink_tile<M, tokens>(x + i * k, a, next, k, ranks, rank, u + i * rank);
        shrink_tokens<M, tokens - 1>(
            num_tokens - i, x + i * k, a, next, k, ranks, rank, u + i * rank);
    }
}

// totals += B u for `tokens` rows of one slot. A call would keep the totals in memory.
template <class T, int tokens>
__attribute__((always_inline)) inline void expand_tile(
    const SlotPointers& slot, const Block& block, const float* u, Pair (&totals)[tokens]) {
    const T* bt = reinterpret_cast<const T*>(slot.bt) + block.column;
    for (int64_t r = 0; r < slot.rank; r++) {
        const Pair b = load_block(bt + r * block.num_columns, block.width);
        repeat<tokens>([&](auto i) {
            const Floats factor = splat(u[i * slot.rank + r]);
            totals[i].first = fma(factor, b.first, totals[i].first);
            totals[i].second = fma(factor, b.second, totals[i].second);
        });
    }
}

// totals = delta_gain * B u on top of the tile. By itself, lest plain adapters pay for it.
template <class T, int tokens>
__attribute__((noinline)) void expand_scaled(
    const SlotPointers& slot, const Block& block, const float (*tile)[kBlockWidth],
    const float* u, Pair (&totals)[tokens]) {
    Pair products[tokens];  // in registers, where what is the caller's may not stay
    repeat<tokens>([&](auto i) { products[i].first = products[i].second = splat(0.0f); });
    expand_tile<T, tokens>(slot, block, u, products);
    const T* gains = reinterpret_cast<const T*>(slot.delta_gain) + block.column;
    const Pair gain = load_block(gains, block.width);
    repeat<tokens>([&](auto i) {
        totals[i].first = fma(gain.first, products[i].first, load(tile[i]));
        totals[i].second = fma(gain.second, products[i].second, load(tile[i] + 16));
    });
}

template <int tokens>
__attribute__((always_inline)) inline void add_to_each(Pair (&totals)[tokens], const Pair& bias) {
    repeat<tokens>([&](auto i) {
        totals[i].first = add(totals[i].first, bias.first);
        totals[i].second = add(totals[i].second, bias.second);
    });
}

// Everything after W x for `tokens` rows of a tile that run on one slot (or on the base).
template <class T, int tokens>
inline void finish_tile(
    const SlotPointers& slot, const Block& block, const float* base_bias,
    const float (*tile)[kBlockWidth], const float* u, T* y, const T* residual, int64_t y_stride) {
    const int width = block.width;
    Pair totals[tokens];
    if (slot.delta_gain) {
        Pair scaled[tokens];  // the totals themselves would have to be in memory all along
        expand_scaled<T, tokens>(slot, block, tile, u, scaled);
        repeat<tokens>([&](auto i) { totals[i] = scaled[i]; });
    } else {
        repeat<tokens>([&](auto i) {
            totals[i].first = load(tile[i]);
            totals[i].second = load(tile[i] + 16);
        });
        expand_tile<T, tokens>(slot, block, u, totals);
    }
    if (slot.gain) {
        const Pair gain = load_block(reinterpret_cast<const T*>(slot.gain) + block.column, width);
        repeat<tokens>([&](auto i) {
            totals[i].first = mul(gain.first, totals[i].first);
            totals[i].second = mul(gain.second, totals[i].second);
        });
    }
    if (slot.bias) {
        add_to_each(totals, load_block(reinterpret_cast<const T*>(slot.bias) + block.column, width));
    }
    if (base_bias) {
        add_to_each(totals, load_block(base_bias, width));
    }
    repeat<tokens>([&](auto i) {
        store_block(y + i * y_stride, totals[i], width);
        if (!residual) return;  // rounded before it is added, as where each is an op of its own
        const Pair y_rounded = load_block(y + i * y_stride, width);
        const Pair before = load_block(residual + i * y_stride, width);
        const Pair after = {
            add(before.first, y_rounded.first), add(before.second, y_rounded.second)};
        store_block(y + i * y_stride, after, width);
    });
}

template <class T, int tokens>
inline void finish_tokens(
    int64_t num_tokens, const SlotPointers& slot, const Block& block, const float* base_bias,
    const float (*tile)[kBlockWidth], const float* u, T* y, const T* residual, int64_t y_stride) {
    if constexpr (tokens > 0) {
        int64_t i = 0;
        for (; i + tokens <= num_tokens; i += tokens)
            finish_tile<T, tokens>(
                slot, block, base_bias, tile + i, u + i * slot.rank, y + i * y_stride,
                residual ? residual + i * y_stride : nullptr, y_stride);
        finish_tokens<T, tokens - 1>(
            num_tokens - i, slot, block, base_bias, tile + i, u + i * slot.rank,
            y + i * y_stride, residual ? residual + i * y_stride : nullptr, y_stride);
    }
}

}  // namespace
