#include "simd_avx512.h"

#include "arithmetic_bf16.h"
#include "arithmetic_float.h"
#include "attention.h"
#include "linear.h"

extern "C" __attribute__((visibility("default"))) int motet_linear_avx512_bf16(
    const LinearCall* call) {
    return call->is_bf16 ? adapted_linear<Bf16Arithmetic>(*call)
                         : adapted_linear<FloatArithmetic<float>>(*call);
}

extern "C" __attribute__((visibility("default"))) int motet_attention_avx512_bf16(
    const AttentionCall* call) {
    return call->is_bf16 ? attention<Bf16Arithmetic>(*call)
                         : attention<FloatArithmetic<float>>(*call);
}
