// What Python hands over, by plain C structs. native_library.py mirrors them field by field.
#pragma once

#include <cstdint>

struct Bf16 {
    uint16_t bits;
};

constexpr int kBlockWidth = 32;  // output columns computed together

// Addresses of A [R, K], B transposed [R, N], gain [N], bias [N] (0: absent), and the rank R.
struct SlotPointers {
    int64_t a, bt, gain, bias, rank;
};

// Tokens [start, stop) run on an adapter. Tokens in no segment are base rows.
struct Segment {
    int64_t slot, start, stop;
};

// Up to 32 neighbouring columns of one member of a group.
struct Block {
    int32_t member;
    int32_t width;      // columns that exist, 1 to 32
    int64_t column;     // the first of them within the member
    int64_t num_columns;  // N of the member, the stride of its B transposed
    int64_t out_column;  // `column` within the group's output
};

// One group of linears that share an input, packed once.
struct Group {
    const uint8_t* weight;  // see pack.cpp; null: the base product comes with each call
    const float* bias;      // [sum N], or null
    const Block* blocks;
    int64_t num_blocks, num_members, in_features, out_features, scale_len;
};

struct LinearCall {
    const Group* group;
    const void* x;                        // [T, K]
    const void* base;                     // [T, sum N], W x, where the group has no packed weight
    void* y;                              // [T, sum N]
    const Segment* segments;              // adapter segments alone, in order
    const SlotPointers* const* tables;    // one table of slots for each member
    int64_t num_segments, num_tokens;
    int32_t is_bf16;                      // x, base, y and the adapters: bf16, or else float32
    int32_t num_threads;
};
