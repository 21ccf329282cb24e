// Paged causal attention, one query token and one key head at a time.
//
// A query's sums run over its visible keys from the first to its own position: one order, whatever
// row it is in, how the sequence was cut into chunks, and who else is in the batch. Keys are read
// where they lie in the cache; nothing past the query's position is read at all.
#pragma once

#include "attention_units.h"
#include "repeat.h"
#include "softmax.h"

namespace {

constexpr int kValueTile = 4;  // registers of a value, taken together

// q . k of the visible positions first + i, for up to 16 of them; in the lanes of others something.
template <class M>
inline Floats key_scores(
    const typename M::Input* q, const Pages<typename M::Stored>& keys, int64_t first, int count,
    int64_t size) {
    const typename M::Stored* rows[16];
    for (int i = 0; i < 16; i++) rows[i] = keys.at(first + (i < count ? i : count - 1));
    Floats totals[16];
    repeat<16>([&](auto i) { totals[i] = splat(0.0f); });
    const auto multiply = [&](int64_t d, int count) __attribute__((always_inline)) {
        repeat<16>([&](auto i) { totals[i] = M::dot(totals[i], q + d, rows[i] + d, count); });
    };
    int64_t d = 0;
    for (; d + M::kReach <= size; d += M::kReach) multiply(d, M::kReach);
    if (d < size) multiply(d, int(size - d));
    return sums(totals);
}

// out = sum of weights[h][i] * value i / totals[h], for 1 to 4 heads, 1 or 4 registers wide.
template <class T, int heads, int registers>
inline void weigh_tile(
    const float* weights, int64_t stride, const float* totals, const Pages<T>& values,
    int64_t count, int64_t column, int width, T* out, int64_t out_stride, KeyFetcher<T>& ahead) {
    Floats results[heads][registers];
    repeat<heads * registers>([&](auto n) { results[n / registers][n % registers] = splat(0.0f); });
    for (int64_t i = 0; i < count; i++) {
        ahead.fetch_one();
        const T* value = values.at(i) + column;
        Floats parts[registers];
        repeat<registers>([&](auto j) {
            parts[j] = registers == 1 ? load(value, width) : load(value + 16 * j);
        });
        repeat<heads>([&](auto h) {
            const Floats weight = splat(weights[h * stride + i]);
            repeat<registers>([&](auto j) { results[h][j] = fma(weight, parts[j], results[h][j]); });
        });
    }
    repeat<heads * registers>([&](auto n) {
        constexpr int h = n / registers, j = n % registers;
        const Floats result = div(results[h][j], splat(totals[h]));
        T* to = out + h * out_stride + column;
        if (registers == 1)
            store(to, result, width);
        else
            store(to + 16 * j, result);
    });
}

template <class T, int heads>
inline void weigh_values(
    int num_heads, const float* weights, int64_t stride, const float* totals,
    const Pages<T>& values, int64_t count, int64_t size, T* out, KeyFetcher<T>& ahead) {
    if constexpr (heads > 0) {
        if (num_heads != heads)
            return weigh_values<T, heads - 1>(
                num_heads, weights, stride, totals, values, count, size, out, ahead);
        int64_t column = 0;
        for (; column + 16 * kValueTile <= size; column += 16 * kValueTile)
            weigh_tile<T, heads, kValueTile>(
                weights, stride, totals, values, count, column, 16, out, size, ahead);
        for (; column < size; column += 16) {
            const int width = size - column < 16 ? int(size - column) : 16;
            weigh_tile<T, heads, 1>(
                weights, stride, totals, values, count, column, width, out, size, ahead);
        }
    }
}

// The heads [head, head + num_heads) of a unit.
template <class M>
void attend(
    const AttentionCall& call, const Unit<typename M::Stored>& unit, int64_t head, int num_heads,
    const Workspace& work, KeyFetcher<typename M::Stored>& ahead) {
    using T = typename M::Stored;
    const auto& keys = unit.keys;
    const auto& values = unit.values;
    const int64_t token = unit.token, count = unit.count;
    const int64_t stride = Workspace::round_up(count);
    const int64_t steps = (count + 15) / 16 * num_heads;
    int64_t step = 0;
    auto* inputs = reinterpret_cast<typename M::Input*>(work.inputs);
    float totals[kQueryTile];
    for (int h = 0; h < num_heads; h++) {
        const T* q = static_cast<const T*>(call.q) + token * call.q_token_stride +
                     (head + h) * call.q_head_stride;
        for (int64_t d = 0; d < call.key_size; d++) inputs[d] = input_of<typename M::Input>(q[d]);
        float* scores = work.scores + h * stride;
        for (int64_t i = 0; i < count; i += 16) {
            const int here = count - i < 16 ? int(count - i) : 16;
            if (h == 0) {
                const int64_t ahead = i + kFetchedKeys, left = count - ahead;
                if (left > 0) fetch(keys, ahead, ahead + (left < 16 ? left : 16), call.key_size);
            }
            // the values come while the scores of all heads are made, lest the memory idle in between
            fetch(values, count * step / steps, count * (step + 1) / steps, call.value_size);
            step++;
            const Floats products = key_scores<M>(inputs, keys, i, here, call.key_size);
            const Floats scaled_products = mul(products, splat(call.scale));
            store(scores + i, call.softcap > 0 ? capped(scaled_products, call.softcap)
                                               : scaled_products);
        }
        totals[h] = exponentials(scores, count);
    }
    T* out = static_cast<T*>(call.out) + (token * call.num_heads + head) * call.value_size;
    weigh_values<T, kQueryTile>(
        num_heads, work.scores, stride, totals, values, count, call.value_size, out, ahead);
}

// Every head of a unit. `ahead`: of the unit that comes next.
template <class M>
void attend_group(
    const AttentionCall& call, const Unit<typename M::Stored>& unit, const Workspace& work,
    KeyFetcher<typename M::Stored> ahead) {
    const int64_t first = unit.count < kFetchedKeys ? unit.count : kFetchedKeys;
    if (!unit.fetched) fetch(unit.keys, 0, first, call.key_size);
    const int64_t group = call.num_heads / call.num_kv_heads;
    for (int64_t h = 0; h < group; h += kQueryTile)
        attend<M>(
            call, unit, unit.kv_head * group + h, group - h < kQueryTile ? int(group - h) : kQueryTile,
            work, ahead);
    ahead.fetch_rest();
}

// One thread's share of a prepared call; every thread of a team that has just met has to come here.
// The results are complete when the team has met again.
template <class M>
void compute(const AttentionCall& call, const AttentionWork& work, const Member& member) {
    using T = typename M::Stored;
    const Workspace workspace(call, work.memory + member.thread * work.size);
    Units<T> units(call, work, workspace, member);
    Unit<T> unit, next;
    bool more = units.next(unit);
    unit.fetched = false;
    for (; more; unit = next) {
        more = units.next(next);
        attend_group<M>(
            call, unit, workspace,
            more && next.fetched ? KeyFetcher<T>(next.keys, next.count, call.key_size)
                                 : KeyFetcher<T>());
    }
}

// 0, or 1 if there is no memory.
template <class M>
int attention(const AttentionCall& call) {
    AttentionWork work;
    if (!prepare(call, work)) return 1;
    with_team(call.num_threads, [&](const Member& member) { compute<M>(call, work, member); });
    return 0;
}

}  // namespace
