// The functions of a level, by the arithmetics it uses for bf16 and for float32.
#pragma once

#include "decoder_layers.h"
#include "dense.h"
#include "largest.h"

#define MOTET_EXPORT extern "C" __attribute__((visibility("default")))

#define MOTET_LEVEL(level, Narrow, Wide)                                             \
    MOTET_EXPORT int motet_linear_##level(const LinearCall* call) {                  \
        return call->is_bf16 ? adapted_linear<Narrow>(*call)                         \
                             : adapted_linear<Wide>(*call);                          \
    }                                                                                \
    MOTET_EXPORT int motet_dense_##level(const DenseCall* call) {                    \
        return call->is_bf16 ? dense_linear<Narrow>(*call)                           \
                             : dense_linear<Wide>(*call);                            \
    }                                                                                \
    MOTET_EXPORT int motet_largest_##level(const LargestCall* call) {                \
        return call->is_bf16 ? largest_places<Bf16>(*call)                          \
                             : largest_places<float>(*call);                         \
    }                                                                                \
    MOTET_EXPORT int motet_attention_##level(const AttentionCall* call) {            \
        return call->is_bf16 ? attention<Narrow>(*call) : attention<Wide>(*call);    \
    }                                                                                \
    MOTET_EXPORT int motet_layers_##level(const LayersCall* call) {                    \
        return call->step->is_bf16 ? decoder_layers<Narrow>(*call)                    \
                                   : decoder_layers<Wide>(*call);                     \
    }
