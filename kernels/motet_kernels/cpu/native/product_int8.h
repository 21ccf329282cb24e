// The base product of one column block in 8-bit integers by AVX512-VNNI, for those who prefer speed
// to the last bits (fast_math); everything else is done as with AVX512-BF16.
//
// Inputs are rounded as rounded_operands.h says, the NF4 table to multiples of 1 / kTableFactor. The
// sum of a group is then exact, whatever its order; total = sum * (scale * factor) + total, group
// after group. Nothing of that depends on how many rows there are.
#pragma once

#include "arithmetic_bf16.h"
#include "product.h"
#include "rounded_operands.h"

namespace {

// kNf4 * kTableFactor + kTableOffset, rounded.
alignas(16) constexpr uint8_t kNf4Codes[16] = {
    16, 50, 69, 84, 96, 107, 118, 128, 137, 146, 156, 166, 177, 191, 209, 240};

struct Int8Arithmetic : Bf16Arithmetic {
    using Operands = RoundedOperands;
    using Weight = __m512i;  // of four k, for each of 16 columns
    static constexpr int kDepth = 4;

    template <int step, int half>
    static Weight weight(const uint8_t* line) {
        const __m512i words = _mm512_srli_epi16(_mm512_load_si512(line), 4 * half);
        const __m512i index = _mm512_and_si512(words, _mm512_set1_epi8(15));
        const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kNf4Codes));
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index);
    }

    // In assembly, because gcc 12 copies the total of its intrinsic to and fro.
    static __m512i multiply(__m512i total, __m512i x, Weight w) {
        asm("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(w), "v"(x));
        return total;
    }

    static Weight read(const uint8_t* from) { return _mm512_load_si512(from); }

    static void write(uint8_t* to, Weight w) { _mm512_store_si512(to, w); }
};

template <class M, int num_rows, class Weights>
inline void multiply_group(
    const Weights& weights, int64_t num_lines, const float* scales, const RoundedOperands& x,
    float (*tile)[kBlockWidth]) {
    __m512i low[num_rows], high[num_rows];
    repeat<num_rows>([&](auto row) {
        __builtin_prefetch(x.codes + row * x.stride + num_lines * 4);  // the next group's
        low[row] = high[row] = _mm512_set1_epi32(x.offsets[row * x.num_groups]);
    });
    RowReader<int8_t, num_rows> inputs(x.codes, x.stride);
    for (int64_t line = 0; line < num_lines; line++) {
        const __m512i first = weights.template get<0, 0>(line);
        const __m512i second = weights.template get<0, 1>(line);
        repeat<num_rows>([&](auto row) {
            int32_t quad;
            memcpy(&quad, inputs.row(row), sizeof quad);
            const __m512i input = _mm512_set1_epi32(quad);
            low[row] = M::multiply(low[row], input, first);
            high[row] = M::multiply(high[row], input, second);
        });
        inputs.advance(4);
    }
    const Floats first = load(scales), second = load(scales + 16);
    repeat<num_rows>([&](auto row) {
        const Floats factor = splat(x.factors[row * x.num_groups]);
        const Floats sums = _mm512_cvtepi32_ps(low[row]);
        store(tile[row], fma(sums, mul(first, factor), load(tile[row])));
        const Floats more = _mm512_cvtepi32_ps(high[row]);
        store(tile[row] + 16, fma(more, mul(second, factor), load(tile[row] + 16)));
    });
}

}  // namespace
