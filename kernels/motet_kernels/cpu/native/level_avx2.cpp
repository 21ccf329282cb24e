#include "simd_avx2.h"

#include "arithmetic_float.h"
#include "attention.h"
#include "linear.h"

extern "C" __attribute__((visibility("default"))) int motet_linear_avx2(const LinearCall* call) {
    return call->is_bf16 ? adapted_linear<FloatArithmetic<Bf16>>(*call)
                         : adapted_linear<FloatArithmetic<float>>(*call);
}

extern "C" __attribute__((visibility("default"))) int motet_attention_avx2(
    const AttentionCall* call) {
    return call->is_bf16 ? attention<FloatArithmetic<Bf16>>(*call)
                         : attention<FloatArithmetic<float>>(*call);
}
