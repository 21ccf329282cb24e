// Inputs rounded to 8 bits: a row's k go by the groups of weights that share a scale, and within one
// every input becomes a whole multiple, -127 to 127, of the group's largest magnitude / 127.
//
// A row's codes come from that row alone, so they do not depend on its company.
#pragma once

#include <immintrin.h>

#include "abi.h"
#include "operands.h"
#include "partial.h"
#include "rounding.h"
#include "scratch.h"

namespace {

struct RoundedOperands {
    static constexpr bool kMade = true;
    int8_t* codes;     // [T, K], the k of every four as 0, 2, 1, 3: the order of a line's codes
    float* factors;    // [T, groups], what a group's integer sums are to be multiplied by
    int32_t* offsets;  // [T, groups], what those sums start with: the table's offset, taken back
    int64_t stride, num_groups, scale_len;

    // Room for the rows of a call. False if there is no memory.
    bool reserve(int64_t num_tokens, int64_t k, int64_t length, int part) {
        stride = k;
        scale_len = length;
        num_groups = k / length;
        const int64_t num_factors = num_tokens * num_groups;
        const int64_t bytes = 2 * sizeof(float) * num_factors + num_tokens * k;
        factors = static_cast<float*>(scratch(kScratchRounded, bytes + 64, part));
        if (!factors) return false;
        offsets = reinterpret_cast<int32_t*>(factors + num_factors);
        codes = reinterpret_cast<int8_t*>(offsets + num_factors);
        return true;
    }

    RoundedOperands at(int64_t row, int64_t k) const {
        const int64_t group = row * num_groups + k / scale_len;
        return {codes + row * stride + k, factors + group, offsets + group,
                stride,                   num_groups,      scale_len};
    }

    // Rows [from, to) of x [T, K].
    void make(const Bf16* x, int64_t from, int64_t to) const {
        for (int64_t row = from; row < to; row++)
            for (int64_t k = 0; k < stride; k += scale_len)
                at(row, k).round_group(x + row * stride + k);
    }

   private:
    void round_group(const Bf16* x) const {
        constexpr int kMostParts = 4;  // registers, of a group of 64
        Floats parts[kMostParts];
        __m512i most = _mm512_setzero_si512();  // as bits, which compare like what they stand for
        for (int i = 0; i * 16 < scale_len; i++) {
            parts[i] = load_up_to(x + i * 16, scale_len - i * 16);
            const __m512i bits = _mm512_castps_si512(_mm512_abs_ps(parts[i]));
            most = _mm512_max_epi32(most, bits);
        }
        const int32_t bits = _mm512_reduce_max_epi32(most);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        if (!(largest >= kLeastOfGroup && largest <= kMostOfGroup)) return fill(largest);
        *factors = largest * (1.0f / (kMostOfCode * kTableFactor));
        const Floats inverse = splat(kMostOfCode / largest);
        __m512i total = _mm512_setzero_si512();
        for (int i = 0; i * 16 < scale_len; i++) {
            const __m512i whole = _mm512_cvtps_epi32(mul(parts[i], inverse));
            total = _mm512_add_epi32(total, whole);
            write(i * 16, _mm512_cvtepi32_epi8(whole));
        }
        *offsets = -kTableOffset * _mm512_reduce_add_epi32(total);
    }

    // A group of zeros; of infinity or NaN, whose sums are then NaN.
    void fill(float largest) const {
        memset(codes, 0, scale_len);
        *factors = largest < kLeastOfGroup ? 0.0f : largest - largest;
        *offsets = 0;
    }

    void write(int64_t k, __m128i whole) const {
        const __m128i order =
            _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
        const __m128i ordered = _mm_shuffle_epi8(whole, order);
        const int64_t left = scale_len - k;
        memcpy(codes + k, &ordered, left < 16 ? left : 16);
    }
};

}  // namespace
