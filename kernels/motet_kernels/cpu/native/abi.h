// What Python hands over, by plain C structs. native_library.py mirrors them field by field.
#pragma once

#include <cstdint>

struct Bf16 {
    uint16_t bits;
};

constexpr int kBlockWidth = 32;  // output columns computed together

// lowrank.py's pointer row: addresses of A [R, K], B transposed [R, N], gain [N], bias [N] (0: absent),
// the rank R, and what other families than LoRA and DoRA have besides.
struct SlotPointers {
    int64_t a, bt, gain, bias, rank;
    int64_t in_gain;                                // [K]
    int64_t core_values, core_columns, core_width;  // [R, width], int32 [R, width]
    int64_t inner_bias;                             // [R]
    int64_t activation;                             // its number in lowrank.ACTIVATIONS
    int64_t delta_gain;                             // [N]
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
    const void* x;                        // [T, K]; with `base`: in_gain * x
    const void* base;                     // [T, sum N], W x, where the group has no packed weight
    void* y;                              // [T, sum N]
    const void* residual;                 // [T, sum N], added to the rounded result, or null
    const Segment* segments;              // adapter segments alone, in order
    const SlotPointers* const* tables;    // one table of slots for each member
    int64_t num_segments, num_tokens;
    int32_t is_bf16;                      // x, base, y and the adapters: bf16, or else float32
    int32_t num_threads;
};

// y = W x + bias for a weight that is not quantised; all of one dtype.
struct DenseCall {
    const void* x;       // [T, K]
    const void* weight;  // [N, K]
    const void* bias;    // [N], or null
    void* y;             // [T, N]
    int64_t num_tokens, in_features, out_features;
    int32_t is_bf16;
    int32_t num_threads;
};

// places[r]: the first place of the largest of logits [R, V], see sampling.py.
struct LargestCall {
    const void* logits;
    int64_t* places;
    int64_t num_rows, width;
    int32_t is_bf16;
    int32_t num_threads;
};

// One sequence's part of a step, see attention_layout.py; its blocks start at blocks[first_block].
struct AttentionRow {
    int64_t start, num_tokens, kv_len, first_block;
};

struct AttentionCall {
    const void* q;    // [T, Hq, D], strides of tokens and heads below
    const void* k;    // [P, block_size, Hkv, D]
    const void* v;    // [P, block_size, Hkv, Dv]
    void* out;        // [T, Hq, Dv]
    const AttentionRow* rows;
    const int64_t* blocks;
    int64_t num_rows, num_tokens, longest;  // longest: the largest kv_len
    int64_t q_token_stride, q_head_stride;
    int64_t block_size, num_heads, num_kv_heads, key_size, value_size;
    int64_t window;   // 0: none
    float scale;
    float softcap;    // 0: none
    int32_t is_bf16;
    int32_t num_threads;
};

// k, v [T, Hkv, size] with strides, into the caches at slots[t].
struct StoreCall {
    const void* k;
    const void* v;
    void* k_cache;
    void* v_cache;
    const int64_t* slots;
    int64_t num_tokens, num_heads, num_places;  // num_places: P * block_size
    int64_t k_token_stride, k_head_stride, v_token_stride, v_head_stride;  // in bytes
    int64_t k_bytes, v_bytes;                                              // of one head
};

// What all layers of a step share.
struct LayerStep {
    const Segment* segments;     // as in LinearCall
    const AttentionRow* rows;
    const int64_t* blocks;
    const int64_t* slots;        // of each token's key and value
    const void* cos;             // [T, head_size]
    const void* sin;
    int64_t num_segments, num_tokens, num_rows, longest, block_size, num_places;
    int32_t is_bf16;
    int32_t num_threads;
};

// The weight [size] of an RMSNorm, or null for none; and where the address of a table is written of
// the addresses of the slots' own weights (0: this one), or null for no such table.
struct Norm {
    const void* weight;
    float eps;
    const int64_t* const* by_slot;
};

// A decoder layer, see decoder_layer.py. Its groups have packed weights, but for `on_output`.
struct Layer {
    const Group* qkv;
    const Group* output;
    const Group* gate_up;
    const Group* down;
    Norm input_norm, post_norm, query_norm, key_norm;
    int64_t num_heads, num_kv_heads, head_size;
    int64_t window;   // 0: none
    float scale;
    float softcap;    // 0: none
    void* k_cache;    // [P, block_size, Hkv, head_size]
    void* v_cache;
    const Group* on_output;             // of adapters on the layer's output, or null
    const SlotPointers* const* tables;  // q, k, v, output, gate, up, down, those on the output
};

// Layers that follow each other. y may not be x.
struct LayersCall {
    const Layer* const* layers;
    const LayerStep* step;
    const void* x;      // [T, hidden]
    void* y;            // [T, hidden]
    double* seconds;    // [kStages] of stopwatch.h, added to, or null
    int64_t num_layers;
};
