// What a call of adapted_linear needs besides its arguments: who does what, and room for it.
#pragma once

#include "inner.h"
#include "scratch.h"

namespace {

constexpr int kRankTile = 4;

template <class M>
constexpr bool kWidens = sizeof(typename M::Input) != sizeof(typename M::Stored);

constexpr SlotPointers kBase = {};

// What the threads of a call share.
template <class M>
struct Shared {
    typename M::Stored* scaled;  // in_gain * x, if an adapter of the call scales its input
    typename M::Input* wide;     // the inputs as the arithmetic wants them, where it widens
    const typename M::Input* x;  // the call's, `scaled` or `wide`
    typename M::Operands operands;  // what the base products make of x
    float* u;                    // A x of every (member, segment) behind one another
    const int64_t* offsets;      // [members, segments], where in u each starts
    float* inner;                // [threads, most_inner]
    const char* const* rows;   // of B, gains and bias of every member's adapters, to be fetched
    const int64_t* first_row;  // [members + 1], where in `rows` each member's begin
    int64_t num_items;         // tiles of ranks, over all of them
    int64_t num_inner;         // rows with an inner stage, over all members
    int64_t most_inner;        // the largest rank of one
};

inline const SlotPointers& slot_of(const LinearCall& call, int64_t member, int64_t segment) {
    return call.tables[member][call.segments[segment].slot];
}

inline int64_t num_rank_tiles(const SlotPointers& slot, const Segment&) {
    return (slot.rank + kRankTile - 1) / kRankTile;
}

inline int64_t num_inner_rows(const SlotPointers& slot, const Segment& segment) {
    return has_inner_stage(slot) ? segment.stop - segment.start : 0;
}

// Items [from, to), counted over all members and segments, of which each has count(slot, segment):
// calls work(member, segment, first, stop) with each one's own.
template <class Count, class Work>
void walk(
    const LinearCall& call, int64_t from, int64_t to, const Count& count, const Work& work) {
    int64_t item = 0;
    for (int64_t member = 0; member < call.group->num_members && item < to; member++)
        for (int64_t s = 0; s < call.num_segments && item < to; s++) {
            const int64_t here = count(slot_of(call, member, s), call.segments[s]);
            const int64_t first = from > item ? from - item : 0;
            const int64_t stop = to - item < here ? to - item : here;
            item += here;
            if (first < stop) work(member, s, first, stop);
        }
}

struct Layout {
    int64_t num_products = 0;  // floats of A x
    int64_t num_items = 0;
    int64_t num_rows = 0;  // to read ahead, at most
    int64_t num_inner = 0;
    int64_t most_inner = 0;
    bool scales = false;
};

// Where each (member, segment) puts its A x.
inline Layout lay_out(const LinearCall& call, int64_t* offsets) {
    Layout layout;
    for (int64_t member = 0; member < call.group->num_members; member++)
        for (int64_t s = 0; s < call.num_segments; s++) {
            offsets[member * call.num_segments + s] = layout.num_products;
            const Segment& segment = call.segments[s];
            const SlotPointers& slot = slot_of(call, member, s);
            layout.num_products += (segment.stop - segment.start) * slot.rank;
            layout.num_items += num_rank_tiles(slot, segment);
            layout.num_rows += slot.rank + 3;
            if (has_inner_stage(slot)) {
                layout.num_inner += num_inner_rows(slot, segment);
                if (slot.rank > layout.most_inner) layout.most_inner = slot.rank;
            }
            // with the base product comes the input it was made of
            if (slot.in_gain && !call.base) layout.scales = true;
        }
    return layout;
}

// The rows of every member's B, gains and biases, and where each member's begin.
template <class T>
void list_rows(const LinearCall& call, const char** rows, int64_t* first_row) {
    int64_t num_rows = 0;
    for (int64_t b = 0; b < call.group->num_blocks; b++) {
        const Block& block = call.group->blocks[b];
        if (block.column) continue;  // a member's first block stands for the member
        first_row[block.member] = num_rows;
        for (int64_t s = 0; s < call.num_segments; s++) {
            const SlotPointers& slot = slot_of(call, block.member, s);
            const char* bt = reinterpret_cast<const char*>(slot.bt);
            for (int64_t r = 0; r < slot.rank; r++)
                rows[num_rows++] = bt + r * block.num_columns * int64_t(sizeof(T));
            for (const int64_t row : {slot.gain, slot.bias, slot.delta_gain})
                if (row) rows[num_rows++] = reinterpret_cast<const char*>(row);
        }
    }
    first_row[call.group->num_members] = num_rows;
}

template <class T>
T* scratch_array(ScratchUse use, int64_t size, int part = 0) {
    return static_cast<T*>(scratch(use, (size + 1) * sizeof(T), part));
}

// Room for a call, by the thread that makes it; `part` tells calls apart that are prepared
// together. False if there is no memory.
template <class M>
bool prepare(const LinearCall& call, Shared<M>& shared, int part = 0) {
    const int64_t num_members = call.group->num_members;
    const int64_t num_inputs = call.num_tokens * call.group->in_features;
    auto* offsets = scratch_array<int64_t>(kScratchOffsets, num_members * call.num_segments, part);
    if (!offsets) return false;
    const Layout layout = lay_out(call, offsets);
    auto* u = scratch_array<float>(kScratchProducts, layout.num_products, part);
    auto* inner = scratch_array<float>(kScratchInner, call.num_threads * layout.most_inner, part);
    auto* rows = scratch_array<const char*>(kScratchRows, layout.num_rows, part);
    auto* first_row = scratch_array<int64_t>(kScratchFirstRows, num_members, part);
    if (!u || !inner || !rows || !first_row) return false;
    list_rows<typename M::Stored>(call, rows, first_row);
    shared = {
        nullptr, nullptr, static_cast<const typename M::Input*>(call.x), {}, u, offsets, inner,
        rows, first_row, layout.num_items, layout.num_inner, layout.most_inner};
    if (layout.scales) {
        shared.scaled = scratch_array<typename M::Stored>(kScratchScaled, num_inputs, part);
        if (!shared.scaled) return false;
        if constexpr (!kWidens<M>) shared.x = shared.scaled;
    }
    if constexpr (kWidens<M>) {
        shared.wide = scratch_array<float>(kScratchInputs, num_inputs, part);
        shared.x = shared.wide;
        if (!shared.wide) return false;
    }
    if constexpr (M::Operands::kMade)
        return !call.group->weight ||
               shared.operands.reserve(
                   call.num_tokens, call.group->in_features, call.group->scale_len, part);
    else
        shared.operands = {shared.x, call.group->in_features};
    return true;
}

}  // namespace
