// Products of bf16 pairs by AVX512-BF16, added up in float32.
#pragma once

#include "operands.h"
#include "partial.h"

namespace {

struct Bf16Arithmetic {
    struct Session {};  // what a thread holds while it computes
    using Stored = Bf16;
    using Input = Bf16;
    using Operands = PlainOperands<Bf16>;
    using Weight = __m512bh;
    using Spread = __m512bh;           // a pair of inputs in every lane
    static constexpr int kDepth = 2;   // k that one Weight covers, for each of 16 columns
    static constexpr int kReach = 32;  // elements that one step of a plain dot product covers
    static constexpr int64_t kTokensApart = 8;  // see decoder_layers.h

    // The table in bf16, twice: the index of a half word takes one bit of the next code with it.
    static __m512i table() {
        const __m512 values = _mm512_load_ps(kNf4);
        const __m256i narrow = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values));
        return _mm512_broadcast_i64x4(narrow);
    }

    template <int step, int half>
    static Weight weight(const uint8_t* line) {
        const __m512i index = _mm512_srli_epi16(_mm512_load_si512(line), 8 * step + 4 * half);
        return reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(index, table()));
    }

    static Weight read(const uint8_t* from) {
        return reinterpret_cast<__m512bh>(_mm512_load_si512(from));
    }

    static void write(uint8_t* to, Weight w) {
        _mm512_store_si512(to, reinterpret_cast<__m512i>(w));
    }

    static Spread spread(const Input* x) {
        int32_t pair;
        memcpy(&pair, x, sizeof pair);
        return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
    }

    static Floats multiply(Floats total, Spread x, Weight w) {
        return _mm512_dpbf16_ps(total, x, w);
    }

    // Sixteen sums of a plain dot product, `count` elements (32 or fewer) further.
    static Floats dot(Floats total, const Input* x, const Stored* a, int count) {
        const __mmask32 mask = count < kReach ? (1u << count) - 1 : ~0u;
        return _mm512_dpbf16_ps(
            total,
            reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, x)),
            reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, a)));
    }
};

}  // namespace
