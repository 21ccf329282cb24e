// AMX for the base products of bf16 linears; everything else is AVX512-BF16's.
#include "simd_avx512.h"

#include "level.h"
#include "product_amx.h"

#ifdef MOTET_EMULATE_AMX
#define MOTET_AMX(operation) motet_##operation##_amx_bf16_emulated
#else
#define MOTET_AMX(operation) motet_##operation##_amx_bf16
#endif

MOTET_EXPORT int motet_linear_avx512_bf16(const LinearCall* call);
MOTET_EXPORT int motet_dense_avx512_bf16(const DenseCall* call);
MOTET_EXPORT int motet_largest_avx512_bf16(const LargestCall* call);
MOTET_EXPORT int motet_attention_avx512_bf16(const AttentionCall* call);
MOTET_EXPORT int motet_layers_avx512_bf16(const LayersCall* call);

MOTET_EXPORT int MOTET_AMX(linear)(const LinearCall* call) {
    return call->is_bf16 ? adapted_linear<AmxArithmetic>(*call) : motet_linear_avx512_bf16(call);
}

MOTET_EXPORT int MOTET_AMX(dense)(const DenseCall* call) { return motet_dense_avx512_bf16(call); }

MOTET_EXPORT int MOTET_AMX(largest)(const LargestCall* call) {
    return motet_largest_avx512_bf16(call);
}

MOTET_EXPORT int MOTET_AMX(attention)(const AttentionCall* call) {
    return motet_attention_avx512_bf16(call);
}

MOTET_EXPORT int MOTET_AMX(layers)(const LayersCall* call) {
    return call->step->is_bf16 ? decoder_layers<AmxArithmetic>(*call)
                               : motet_layers_avx512_bf16(call);
}
