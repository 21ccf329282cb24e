// adapted_linear of ops.py for one group, and adapt for one linear: work is shared out by (adapter,
// ranks), by rows where there is an inner stage, and then by column blocks, to whichever thread is
// free. No sum is ever split over threads, so their number changes nothing.
#pragma once

#include "adapters.h"
#include "linear_call.h"
#include "product.h"
#include "stopwatch.h"
#include "team.h"

namespace {

constexpr int64_t kInnerAtOnce = 2;  // rows

// Rows [from, to) of in_gain * x, and the others as they are.
template <class T>
void scale_rows(const LinearCall& call, T* scaled, int64_t from, int64_t to) {
    const int64_t k = call.group->in_features;
    const T* x = static_cast<const T*>(call.x);
    memcpy(scaled + from * k, x + from * k, (to - from) * k * sizeof(T));
    for (int64_t s = 0; s < call.num_segments; s++) {
        const Segment& segment = call.segments[s];
        const T* gain = reinterpret_cast<const T*>(slot_of(call, 0, s).in_gain);
        if (!gain) continue;
        const int64_t stop = segment.stop < to ? segment.stop : to;
        for (int64_t t = segment.start > from ? segment.start : from; t < stop; t++)
            for (int64_t i = 0; i < k; i += 16) {
                const Floats row = load_up_to(x + t * k + i, k - i);
                store_up_to(scaled + t * k + i, mul(load_up_to(gain + i, k - i), row), k - i);
            }
    }
}

// A of the first (member, segment) with an adapter after this one, or null.
template <class T>
const T* inputs_after(const LinearCall& call, int64_t member, int64_t s) {
    for (s++; member < call.group->num_members; member++, s = 0)
        for (; s < call.num_segments; s++)
            if (slot_of(call, member, s).rank)
                return reinterpret_cast<const T*>(slot_of(call, member, s).a);
    return nullptr;
}

// Items [from, to) of A x: tiles of ranks, counted over all members and segments.
template <class M>
void shrink(const LinearCall& call, const Shared<M>& shared, int64_t from, int64_t to) {
    const int64_t k = call.group->in_features;
    int64_t left = to - from;
    walk(call, from, to, num_rank_tiles, [&](int64_t member, int64_t s, int64_t first, int64_t stop) {
        const SlotPointers& slot = slot_of(call, member, s);
        const Segment& segment = call.segments[s];
        const auto* a = reinterpret_cast<const typename M::Stored*>(slot.a);
        float* u = shared.u + shared.offsets[member * call.num_segments + s];
        left -= stop - first;
        const auto* following =
            left > 0 ? inputs_after<typename M::Stored>(call, member, s) : nullptr;
        for (int64_t j = first * kRankTile; j < stop * kRankTile; j += kRankTile) {
            const auto* next = j + kRankTile < stop * kRankTile ? a + (j + kRankTile) * k : following;
            const int ranks = slot.rank - j < kRankTile ? int(slot.rank - j) : kRankTile;
            shrink_tokens<M, kTokenTile>(
                segment.stop - segment.start, shared.x + segment.start * k, a + j * k,
                next ? next : a + j * k, k, ranks, slot.rank, u + j);
        }
    });
}

// Items [from, to) of the inner stages: rows, counted over all members and segments that have one.
template <class M>
void refine_rows(
    const LinearCall& call, const Shared<M>& shared, int64_t from, int64_t to, int thread) {
    float* work = shared.inner + thread * shared.most_inner;
    walk(call, from, to, num_inner_rows, [&](int64_t member, int64_t s, int64_t first, int64_t stop) {
        const SlotPointers& slot = slot_of(call, member, s);
        float* u = shared.u + shared.offsets[member * call.num_segments + s];
        for (int64_t row = first; row < stop; row++)
            refine<typename M::Stored>(slot, u + row * slot.rank, work);
    });
}

template <class T>
void load_tile(const LinearCall& call, const Block& block, int64_t first, int rows,
               float (*tile)[kBlockWidth]) {
    const T* base = static_cast<const T*>(call.base) + block.out_column;
    for (int row = 0; row < rows; row++) {
        const T* from = base + (first + row) * call.group->out_features;
        store_block(tile[row], load_block(from, block.width), kBlockWidth);
    }
}

// Rows [first, first + rows) of one block, whose tile holds W x, through adapters and biases.
template <class M>
void finish(const LinearCall& call, const Shared<M>& shared, const Block& block, int64_t first,
            int rows, const float (*tile)[kBlockWidth]) {
    using T = typename M::Stored;
    const Group& group = *call.group;
    const float* bias = group.bias ? group.bias + block.out_column : nullptr;
    T* y = static_cast<T*>(call.y) + block.out_column;
    const T* residual =
        call.residual ? static_cast<const T*>(call.residual) + block.out_column : nullptr;
    const int64_t stop = first + rows;
    const auto finish_rows = [&](int64_t from, int64_t to, const SlotPointers& slot, const float* u) {
        finish_tokens<T, kFinishTile>(
            to - from, slot, block, bias, tile + (from - first), u,
            y + from * group.out_features,
            residual ? residual + from * group.out_features : nullptr, group.out_features);
    };
    int64_t done = first;
    for (int64_t s = 0; s < call.num_segments && done < stop; s++) {
        const Segment& segment = call.segments[s];
        if (segment.stop <= done) continue;
        const int64_t from = segment.start > done ? segment.start : done;
        if (from >= stop) break;
        const int64_t to = segment.stop < stop ? segment.stop : stop;
        const SlotPointers& slot = slot_of(call, block.member, s);
        const float* u = shared.u + shared.offsets[block.member * call.num_segments + s] +
                         (from - segment.start) * slot.rank;
        finish_rows(done, from, kBase, nullptr);
        finish_rows(from, to, slot, u);
        done = to;
    }
    finish_rows(done, stop, kBase, nullptr);
}

// What block b needs of the adapters of its member, to be fetched in `turns` turns.
template <class M>
Fetcher fetcher_of(const LinearCall& call, const Shared<M>& shared, int64_t b, int64_t turns) {
    const Block& block = call.group->blocks[b];
    const int64_t from = shared.first_row[block.member];
    constexpr int64_t size = sizeof(typename M::Stored);
    return Fetcher(
        shared.rows + from, shared.first_row[block.member + 1] - from, block.column * size, turns);
}

template <class M>
void compute_blocks(const LinearCall& call, const Shared<M>& shared, int64_t from, int64_t to) {
    const Group& group = *call.group;
    const int64_t num_groups = group.in_features / group.scale_len;
    const int64_t block_size = num_groups * record_size(group.scale_len);
    const int64_t turns = num_groups * ((call.num_tokens + kRows - 1) / kRows);
    alignas(64) float tile[kTileRows][kBlockWidth];
    fetcher_of(call, shared, from, 1).fetch_some();
    for (int64_t b = from; b < to; b++) {
        Fetcher next = b + 1 < to ? fetcher_of(call, shared, b + 1, turns) : Fetcher();
        for (int64_t first = 0; first < call.num_tokens; first += kTileRows) {
            const int64_t left = call.num_tokens - first;
            const int rows = left < kTileRows ? int(left) : kTileRows;
            if (group.weight)
                block_product<M>(
                    group, group.weight + b * block_size, shared.operands.at(first, 0), rows, next,
                    tile);
            else
                load_tile<typename M::Stored>(call, group.blocks[b], first, rows, tile);
            finish<M>(call, shared, group.blocks[b], first, rows, tile);
        }
    }
}

// A thread's part of `size` elements in float32.
inline void widen(const Bf16* from, float* to, int64_t size, const Member& member) {
    const int64_t stop = member.to(size);
    for (int64_t i = member.from(size); i < stop; i += 16)
        store_up_to(to + i, load_up_to(from + i, stop - i), stop - i);
}

// One thread's share of a prepared call; every thread of a team that has just met has to come here.
// The results are complete when the team has met again; that lap, of the column blocks, is the
// caller's to take.
template <class M>
void compute(
    const LinearCall& call, const Shared<M>& shared, const Member& member, Stopwatch& watch) {
    if (shared.scaled) {
        scale_rows(call, shared.scaled, member.from(call.num_tokens), member.to(call.num_tokens));
        member.meet();
        watch.lap(kStageAdapters);
    }
    if constexpr (kWidens<M>) {
        const auto* narrow = shared.scaled ? shared.scaled : static_cast<const Bf16*>(call.x);
        widen(narrow, shared.wide, call.num_tokens * call.group->in_features, member);
        member.meet();
        watch.lap(kStageLinears);
    }
    if constexpr (M::Operands::kMade) {
        // rows that this thread has scaled itself, if any has been
        const int64_t from = member.from(call.num_tokens), to = member.to(call.num_tokens);
        if (call.group->weight) shared.operands.make(shared.x, from, to);
        if (!shared.num_items) member.meet();
        watch.lap(kStageLinears);
    }
    if (shared.num_items) {
        member.share_out(shared.num_items, [&](int64_t from, int64_t to) {
            shrink<M>(call, shared, from, to);
        });
        member.meet();
        watch.lap(kStageAdapters);
    }
    if (shared.num_inner) {
        member.share(shared.num_inner, kInnerAtOnce, [&](int64_t from, int64_t to) {
            refine_rows<M>(call, shared, from, to, member.thread);
        });
        member.meet();
        watch.lap(kStageAdapters);
    }
    // the weights of neighbouring blocks are one stream
    member.share_out(call.group->num_blocks, [&](int64_t from, int64_t to) {
        compute_blocks<M>(call, shared, from, to);
    });
}

// 0, or 1 if there is no memory.
template <class M>
int adapted_linear(const LinearCall& call) {
    Shared<M> shared;
    if (!prepare(call, shared)) return 1;
    with_team(call.num_threads, [&](const Member& member) {
        const typename M::Session session;
        Stopwatch watch(nullptr);
        compute(call, shared, member, watch);
    });
    return 0;
}

}  // namespace
