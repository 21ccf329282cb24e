// Inputs rounded to 8 bits: a row's k go by the groups of weights that share a scale, and within one
// every input becomes a whole multiple, -127 to 127, of the group's largest magnitude / 127.
//
// A row's codes come from that row alone, so they do not depend on its company.
#pragma once

#include <immintrin.h>

#include "abi.h"
#include "operands.h"
#include "partial.h"
#include "repeat.h"
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
    static constexpr int kMostParts = 4;  // registers, of a group of 64

    void round_group(const Bf16* x) const {
        Floats parts[kMostParts];
        __m512i most = _mm512_setzero_si512();  // as bits, which compare like what they stand for
        repeat<kMostParts>([&](auto i) {
            const int64_t left = scale_len - i * 16;
            parts[i] = left > 0 ? load_up_to(x + i * 16, left) : splat(0.0f);
            const __m512i bits = _mm512_castps_si512(_mm512_abs_ps(parts[i]));
            most = _mm512_max_epi32(most, bits);
        });
        const int32_t bits = _mm512_reduce_max_epi32(most);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        if (!(largest >= kLeastOfGroup && largest <= kMostOfGroup)) return fill(largest);
        *factors = largest * (1.0f / (kMostOfCode * kTableFactor));
        const Floats inverse = splat(kMostOfCode / largest);
        __m512i whole[kMostParts];
        repeat<kMostParts>([&](auto i) { whole[i] = _mm512_cvtps_epi32(mul(parts[i], inverse)); });
        const __m512i code = packed(whole);
        const __m512i total = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), code);
        *offsets = -kTableOffset * _mm512_reduce_add_epi32(total);
        _mm512_mask_storeu_epi8(codes, ~0ull >> (64 - scale_len), code);
    }

    // 64 whole numbers as bytes, in the order of a line's codes.
    static __m512i packed(const __m512i (&whole)[kMostParts]) {
        const __m512i low = _mm512_packs_epi32(whole[0], whole[1]);
        const __m512i high = _mm512_packs_epi32(whole[2], whole[3]);
        // every fourth word of the four are neighbours now
        const __m512i by_lane = _mm512_packs_epi16(low, high);
        const __m512i places = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const __m512i in_order = _mm512_permutexvar_epi32(places, by_lane);
        const __m128i order =
            _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
        return _mm512_shuffle_epi8(in_order, _mm512_broadcast_i32x4(order));
    }

    // A group of zeros; of infinity or NaN, whose sums are then NaN.
    void fill(float largest) const {
        memset(codes, 0, scale_len);
        *factors = largest < kLeastOfGroup ? 0.0f : largest - largest;
        *offsets = 0;
    }
};

}  // namespace
