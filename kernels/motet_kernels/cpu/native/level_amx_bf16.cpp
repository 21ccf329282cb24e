// AMX for the base product of bf16 linears; attention and float32 are AVX512-BF16's.
#include "simd_avx512.h"

#include "arithmetic_bf16.h"
#include "linear.h"
#include "product_amx.h"

#ifdef MOTET_EMULATE_AMX
#define MOTET_LEVEL(operation) motet_##operation##_amx_bf16_emulated
#else
#define MOTET_LEVEL(operation) motet_##operation##_amx_bf16
#endif

extern "C" {

int motet_linear_avx512_bf16(const LinearCall* call);
int motet_attention_avx512_bf16(const AttentionCall* call);

__attribute__((visibility("default"))) int MOTET_LEVEL(linear)(const LinearCall* call) {
    return call->is_bf16 ? adapted_linear<AmxArithmetic>(*call) : motet_linear_avx512_bf16(call);
}

__attribute__((visibility("default"))) int MOTET_LEVEL(attention)(const AttentionCall* call) {
    return motet_attention_avx512_bf16(call);
}

}  // extern "C"
