// AVX512-VNNI for the base products of bf16 linears, in 8-bit integers; everything else is
// AVX512-BF16's. Only where less precision has been asked for: see product_int8.h.
#include "simd_avx512.h"

#include "level.h"
#include "product_int8.h"
#include "rounded_dense.h"

MOTET_EXPORT int motet_linear_avx512_bf16(const LinearCall* call);
MOTET_EXPORT int motet_dense_avx512_bf16(const DenseCall* call);
MOTET_EXPORT int motet_largest_avx512_bf16(const LargestCall* call);
MOTET_EXPORT int motet_attention_avx512_bf16(const AttentionCall* call);
MOTET_EXPORT int motet_layers_avx512_bf16(const LayersCall* call);

MOTET_EXPORT int motet_linear_avx512_vnni(const LinearCall* call) {
    return call->is_bf16 ? adapted_linear<Int8Arithmetic>(*call) : motet_linear_avx512_bf16(call);
}

MOTET_EXPORT int motet_dense_avx512_vnni(const DenseCall* call) {
    return motet_dense_avx512_bf16(call);
}

// weight: from motet_pack_rounded with that scale_len. x, bias and y are bf16.
MOTET_EXPORT int motet_rounded_dense_avx512_vnni(const DenseCall* call, int64_t scale_len) {
    return rounded_dense(*call, scale_len);
}

MOTET_EXPORT int motet_largest_avx512_vnni(const LargestCall* call) {
    return motet_largest_avx512_bf16(call);
}

MOTET_EXPORT int motet_attention_avx512_vnni(const AttentionCall* call) {
    return motet_attention_avx512_bf16(call);
}

MOTET_EXPORT int motet_layers_avx512_vnni(const LayersCall* call) {
    return call->step->is_bf16 ? decoder_layers<Int8Arithmetic>(*call)
                               : motet_layers_avx512_bf16(call);
}
