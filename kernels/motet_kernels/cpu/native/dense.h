// A linear whose weight is not quantised, such as the output head: y = W x + bias.
//
// Every output is one dot product, summed over k in sixteen lanes and then over the lanes by one
// tree, whatever else is computed beside it. Sixteen outputs at a time share loads.
#pragma once

#include "fetcher.h"
#include "linear.h"

namespace {

constexpr int kOutputs = 16;

// Lane i * columns + j: x[i] . weights[j], for `tokens` rows of x.
template <class M, int tokens>
inline Floats dots(
    const typename M::Input* x, const typename M::Stored* const* weights, int64_t k,
    StreamFetcher& fetcher) {
    constexpr int columns = kOutputs / tokens;
    Floats totals[kOutputs];
    repeat<kOutputs>([&](auto n) { totals[n] = splat(0.0f); });
    const auto multiply = [&](int64_t start, int count) __attribute__((always_inline)) {
        repeat<kOutputs>([&](auto n) {
            constexpr int i = n % tokens, j = n / tokens, at = i * columns + j;
            totals[at] = M::dot(totals[at], x + i * k + start, weights[j] + start, count);
        });
    };
    int64_t start = 0;
    for (; start + M::kReach <= k; start += M::kReach) {
        fetcher.fetch_some();
        multiply(start, M::kReach);
    }
    if (start < k) multiply(start, int(k - start));
    return sums(totals);
}

// Outputs [column, column + 16) of `tokens` rows from row `first` on, as far as they exist.
template <class M, int tokens>
void dense_rows(
    const DenseCall& call, const typename M::Input* x, int64_t first, int64_t column,
    const typename M::Stored* const* weights, StreamFetcher& fetcher) {
    using T = typename M::Stored;
    constexpr int columns = kOutputs / tokens;
    alignas(64) float tile[tokens][kOutputs];
    for (int part = 0; part < tokens; part++) {
        alignas(64) float results[tokens][columns];
        store(results[0], dots<M, tokens>(
                              x + first * call.in_features, weights + part * columns,
                              call.in_features, fetcher));
        for (int i = 0; i < tokens; i++)
            memcpy(tile[i] + part * columns, results[i], sizeof results[i]);
    }
    const int64_t width = call.out_features - column;
    const T* bias = call.bias ? static_cast<const T*>(call.bias) + column : nullptr;
    T* y = static_cast<T*>(call.y) + first * call.out_features + column;
    for (int i = 0; i < tokens; i++) {
        Floats result = load(tile[i]);
        if (bias) result = add(result, load_up_to(bias, width));
        store_up_to(y + i * call.out_features, result, width);
    }
}

template <class M>
void dense_blocks(
    const DenseCall& call, const typename M::Input* x, int64_t from, int64_t to) {
    using T = typename M::Stored;
    for (int64_t block = from; block < to; block++) {
        const int64_t column = block * kOutputs, last = call.out_features - 1;
        const T* weights[kOutputs];
        for (int j = 0; j < kOutputs; j++) {
            const int64_t row = column + j < last ? column + j : last;
            weights[j] = static_cast<const T*>(call.weight) + row * call.in_features;
        }
        // the next block's weights, one step of a dot product after the other
        const int64_t steps = call.in_features / M::kReach + 1;
        StreamFetcher next(
            weights[0] + kOutputs * call.in_features,
            block + 1 < to ? kOutputs * call.in_features * int64_t(sizeof(T)) : 0,
            steps * call.num_tokens);
        int64_t t = 0;
        for (; t + 4 <= call.num_tokens; t += 4) dense_rows<M, 4>(call, x, t, column, weights, next);
        for (; t + 2 <= call.num_tokens; t += 2) dense_rows<M, 2>(call, x, t, column, weights, next);
        for (; t < call.num_tokens; t++) dense_rows<M, 1>(call, x, t, column, weights, next);
    }
}

// 0, or 1 if there is no memory.
template <class M>
int dense_linear(const DenseCall& call) {
    const auto* x = static_cast<const typename M::Input*>(call.x);
    float* wide = nullptr;
    const int64_t size = call.num_tokens * call.in_features;
    if constexpr (kWidens<M>) {
        x = wide = scratch_array<float>(kScratchInputs, size);
        if (!wide) return 1;
    }
    const int64_t num_blocks = (call.out_features + kOutputs - 1) / kOutputs;
    with_team(call.num_threads, [&](const Member& member) {
        if constexpr (kWidens<M>) {
            widen(static_cast<const Bf16*>(call.x), wide, size, member);
            member.meet();
        }
        // the weights of neighbouring blocks are one stream
        member.share_out(num_blocks, [&](int64_t from, int64_t to) {
            dense_blocks<M>(call, x, from, to);
        });
    });
    return 0;
}

}  // namespace
