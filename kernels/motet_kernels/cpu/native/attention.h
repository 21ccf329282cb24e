// Paged causal attention, one query token and one key head at a time.
//
// A query's sums run over its visible keys from the first to its own position: one order, whatever
// row it is in, how the sequence was cut into chunks, and who else is in the batch. Keys are read
// where they lie in the cache; nothing past the query's position is read at all.
#pragma once

#include "repeat.h"
#include "scratch.h"
#include "softmax.h"
#include "team.h"

namespace {

constexpr int kQueryTile = 4;   // heads that share a key head, taken together
constexpr int kFetchedKeys = 32;  // how far ahead keys are brought in
constexpr int kValueTile = 4;   // registers of a value, likewise

// One token's queries and the keys they see.
struct Query {
    int64_t position;
    const int64_t* blocks;
};

// The visible keys (or values) of one head, oldest first.
template <class T>
struct Pages {
    const T* cache;         // of the head
    int64_t stride;         // from one place of the cache to the next
    const int64_t* places;  // of each visible position

    const T* at(int64_t index) const { return cache + places[index] * stride; }
};

// What a thread works in, for one token: sizes are multiples of 64 bytes.
struct Workspace {
    float* inputs;    // one query
    float* scores;    // [kQueryTile, longest]
    int64_t* places;  // [longest]

    static int64_t size(const AttentionCall& call) {
        return round_up(call.key_size) + (kQueryTile + 2) * round_up(call.longest);
    }

    Workspace(const AttentionCall& call, float* memory)
        : inputs(memory),
          scores(inputs + round_up(call.key_size)),
          places(reinterpret_cast<int64_t*>(scores + kQueryTile * round_up(call.longest))) {}

    static int64_t round_up(int64_t size) { return (size + 15) / 16 * 16; }
};

inline void find_places(const Query& query, int64_t first, int64_t block_size, int64_t* places) {
    const int64_t* block = query.blocks + first / block_size;
    int64_t offset = first % block_size;
    for (int64_t position = first; position <= query.position; position++) {
        *places++ = *block * block_size + offset;
        if (++offset == block_size) {
            offset = 0;
            block++;
        }
    }
}

// Bring the keys or values of positions [from, to) into the cache: rows of a paged cache lie too far
// apart for the hardware to foresee them.
template <class T>
inline void fetch(const Pages<T>& pages, int64_t from, int64_t to, int64_t size) {
    const int64_t bytes = size * int64_t(sizeof(T));
    for (int64_t i = from; i < to; i++)
        for (int64_t offset = 0; offset < bytes; offset += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(pages.at(i)) + offset);
}

// q . k of the visible positions first + i, for up to 16 of them.
template <class M>
inline Floats key_scores(
    const typename M::Input* q, const Pages<typename M::Stored>& keys, int64_t first, int count,
    int64_t size) {
    Floats totals[16];
    repeat<16>([&](auto i) {
        totals[i] = splat(0.0f);
        if (i >= count) return;
        const auto* key = keys.at(first + i);
        int64_t d = 0;
        for (; d + M::kReach <= size; d += M::kReach)
            totals[i] = M::dot(totals[i], q + d, key + d, M::kReach);
        if (d < size) totals[i] = M::dot(totals[i], q + d, key + d, int(size - d));
    });
    return sums(totals);
}

// out = sum of weights[h][i] * value i / totals[h], for 1 to 4 heads, 1 or 4 registers wide.
template <class T, int heads, int registers>
inline void weigh_tile(
    const float* weights, int64_t stride, const float* totals, const Pages<T>& values,
    int64_t count, int64_t column, int width, T* out, int64_t out_stride) {
    Floats results[heads][registers];
    repeat<heads * registers>([&](auto n) { results[n / registers][n % registers] = splat(0.0f); });
    for (int64_t i = 0; i < count; i++) {
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
    const Pages<T>& values, int64_t count, int64_t size, T* out) {
    if constexpr (heads > 0) {
        if (num_heads != heads)
            return weigh_values<T, heads - 1>(
                num_heads, weights, stride, totals, values, count, size, out);
        int64_t column = 0;
        for (; column + 16 * kValueTile <= size; column += 16 * kValueTile)
            weigh_tile<T, heads, kValueTile>(
                weights, stride, totals, values, count, column, 16, out, size);
        for (; column < size; column += 16) {
            const int width = size - column < 16 ? int(size - column) : 16;
            weigh_tile<T, heads, 1>(
                weights, stride, totals, values, count, column, width, out, size);
        }
    }
}

// The heads [head, head + num_heads) of one token, which share a key head.
template <class M>
void attend(
    const AttentionCall& call, int64_t token, int64_t head, int num_heads, int64_t count,
    const Pages<typename M::Stored>& keys, const Pages<typename M::Stored>& values,
    const Workspace& work) {
    using T = typename M::Stored;
    const int64_t stride = Workspace::round_up(count);
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
                fetch(values, i, i + here, call.value_size);
            }
            const Floats products = key_scores<M>(inputs, keys, i, here, call.key_size);
            const Floats scaled_products = mul(products, splat(call.scale));
            store(scores + i, call.softcap > 0 ? capped(scaled_products, call.softcap)
                                               : scaled_products);
        }
        totals[h] = exponentials(scores, count);
    }
    T* out = static_cast<T*>(call.out) + (token * call.num_heads + head) * call.value_size;
    weigh_values<T, kQueryTile>(
        num_heads, work.scores, stride, totals, values, count, call.value_size, out);
}

// Every head of one token that shares a key head.
template <class M>
void attend_group(
    const AttentionCall& call, const Query& query, int64_t token, int64_t kv_head,
    const Workspace& work) {
    using T = typename M::Stored;
    const int64_t seen = query.position + 1;
    const int64_t first = call.window && call.window < seen ? seen - call.window : 0;
    find_places(query, first, call.block_size, work.places);
    const Pages<T> keys = {
        static_cast<const T*>(call.k) + kv_head * call.key_size,
        call.num_kv_heads * call.key_size, work.places};
    const Pages<T> values = {
        static_cast<const T*>(call.v) + kv_head * call.value_size,
        call.num_kv_heads * call.value_size, work.places};
    fetch(keys, 0, seen - first < kFetchedKeys ? seen - first : kFetchedKeys, call.key_size);
    const int64_t group = call.num_heads / call.num_kv_heads;
    for (int64_t h = 0; h < group; h += kQueryTile)
        attend<M>(
            call, token, kv_head * group + h, group - h < kQueryTile ? int(group - h) : kQueryTile,
            seen - first, keys, values, work);
}

inline void lay_out(const AttentionCall& call, Query* queries) {
    for (int64_t r = 0; r < call.num_rows; r++) {
        const AttentionRow& row = call.rows[r];
        for (int64_t i = 0; i < row.num_tokens; i++)
            queries[row.start + i] = {
                row.kv_len - row.num_tokens + i, call.blocks + row.first_block};
    }
}

// What the threads of a call share.
struct AttentionWork {
    const Query* queries;
    float* memory;
    int64_t size;  // floats of a thread's part
};

// Room for a call, by the thread that makes it. False if there is no memory.
inline bool prepare(const AttentionCall& call, AttentionWork& work) {
    const int64_t size = Workspace::size(call);
    auto* queries =
        static_cast<Query*>(scratch(kScratchQueries, (call.num_tokens + 1) * sizeof(Query)));
    auto* memory =
        static_cast<float*>(scratch(kScratchScores, call.num_threads * size * sizeof(float)));
    if (!queries || !memory) return false;
    lay_out(call, queries);
    work = {queries, memory, size};
    return true;
}

// One thread's share of a prepared call; every thread of a team that has just met has to come here.
// The results are complete when the team has met again.
template <class M>
void compute(const AttentionCall& call, const AttentionWork& work, const Member& member) {
    const Workspace workspace(call, work.memory + member.thread * work.size);
    // the heads of a token lie side by side, so a thread takes them all where there are enough
    const int64_t step = call.num_tokens < 2 * member.num_threads ? 1 : call.num_kv_heads;
    member.share(call.num_tokens * call.num_kv_heads, step, [&](int64_t from, int64_t to) {
        for (int64_t item = from; item < to; item++) {
            const int64_t token = item / call.num_kv_heads;
            attend_group<M>(call, work.queries[token], token, item % call.num_kv_heads, workspace);
        }
    });
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
