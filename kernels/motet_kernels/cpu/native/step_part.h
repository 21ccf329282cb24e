// The tokens of a step that one thread takes through all layers.
#pragma once

#include "scratch.h"
#include "team.h"

namespace {

// What a position that a token sees costs, in multiplications of a product: attention waits for memory.
constexpr int64_t kAttentionCost = 5;

// What a layer costs for a token at `position`.
inline int64_t token_cost(const Layer& layer, int64_t position) {
    int64_t cost = 0;
    for (const Group* group : {layer.qkv, layer.output, layer.gate_up, layer.down})
        cost += group->in_features * group->out_features;
    const int64_t seen = layer.window && layer.window <= position ? layer.window : position + 1;
    return cost + kAttentionCost * 2 * seen * layer.num_heads * layer.head_size;
}

// A thread's part of a call: tokens [from, to), renumbered from 0.
template <class M>
struct StepPart {
    LayerStep step;
    LayersCall call;
    const int64_t* token_slots = nullptr;

    // The part of one thread of a team, of about the same cost as the others' and perhaps empty. False
    // if there is no memory.
    bool take(const LayersCall& whole, const int64_t* slots_of_all, const Member& member) {
        step = *whole.step;
        call = whole;
        call.step = &step;
        if (member.thread) call.seconds = nullptr;
        find_tokens(whole, member);
        auto* segments =
            static_cast<Segment*>(scratch(kScratchSegments, step.num_segments * sizeof(Segment) + 1));
        auto* rows = static_cast<AttentionRow*>(
            scratch(kScratchAttentionRows, step.num_rows * sizeof(AttentionRow)));
        if (!segments || !rows) return false;
        take_segments(segments);
        take_rows(rows);
        using T = typename M::Stored;
        const int64_t hidden = whole.layers[0]->qkv->in_features;
        const int64_t head_size = whole.layers[0]->head_size;
        token_slots = slots_of_all + from_;
        step.slots += from_;
        step.cos = static_cast<const T*>(step.cos) + from_ * head_size;
        step.sin = static_cast<const T*>(step.sin) + from_ * head_size;
        step.num_tokens = to_ - from_;
        step.num_threads = 1;
        call.x = static_cast<const T*>(call.x) + from_ * hidden;
        call.y = static_cast<T*>(call.y) + from_ * hidden;
        return true;
    }

   private:
    int64_t from_, to_;

    void find_tokens(const LayersCall& whole, const Member& member) {
        const Layer& layer = *whole.layers[0];
        int64_t total = 0;
        for_tokens(layer, [&](int64_t, int64_t cost) { total += cost; });
        from_ = to_ = step.num_tokens;
        int64_t before = 0;
        for_tokens(layer, [&](int64_t token, int64_t cost) {
            const int64_t owner = (before + cost / 2) * member.num_threads / total;
            if (owner >= member.thread && token < from_) from_ = token;
            if (owner > member.thread && token < to_) to_ = token;
            before += cost;
        });
    }

    // work(token, its cost), in order
    template <class Work>
    void for_tokens(const Layer& layer, const Work& work) const {
        for (int64_t r = 0; r < step.num_rows; r++) {
            const AttentionRow& row = step.rows[r];
            const int64_t first = row.kv_len - row.num_tokens;
            for (int64_t i = 0; i < row.num_tokens; i++)
                work(row.start + i, token_cost(layer, first + i));
        }
    }

    void take_segments(Segment* kept) {
        const Segment* segment = step.segments;
        const Segment* last = segment + step.num_segments;
        step.segments = kept;
        step.num_segments = 0;
        for (; segment != last; segment++) {
            const int64_t start = segment->start > from_ ? segment->start : from_;
            const int64_t stop = segment->stop < to_ ? segment->stop : to_;
            if (start < stop) kept[step.num_segments++] = {segment->slot, start - from_, stop - from_};
        }
    }

    void take_rows(AttentionRow* kept) {
        const AttentionRow* row = step.rows;
        const AttentionRow* last = row + step.num_rows;
        step.rows = kept;
        step.num_rows = 0;
        for (; row != last; row++) {
            const int64_t end = row->start + row->num_tokens;
            const int64_t start = row->start > from_ ? row->start : from_;
            const int64_t stop = end < to_ ? end : to_;
            if (start < stop)
                kept[step.num_rows++] = {
                    start - from_, stop - start, row->kv_len - (end - stop), row->first_block};
        }
    }
};

}  // namespace
