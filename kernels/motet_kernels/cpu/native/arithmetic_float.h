// Products in float32: every level below AVX512-BF16, and float32 inputs on all of them.
#pragma once

#include "operands.h"
#include "partial.h"

namespace {

// T: what adapters are stored in. Inputs come as floats, widened once a call where they are bf16.
template <class T>
struct FloatArithmetic {
    struct Session {};  // what a thread holds while it computes
    using Stored = T;
    using Input = float;
    using Operands = PlainOperands<float>;
    using Weight = Floats;
    using Spread = Floats;                 // an input in every lane
    static constexpr int kDepth = 1;       // k that one Weight covers, for each of 16 columns
    static constexpr int kReach = 16;      // elements that one step of a plain dot product covers
    static constexpr int64_t kTokensApart = 8;  // see decoder_layers.h

    template <int step, int half>
    static Weight weight(const uint8_t* line) {
        return nf4_values<nibble_shift(step, half)>(line);
    }

    static Weight read(const uint8_t* from) { return load(reinterpret_cast<const float*>(from)); }

    static void write(uint8_t* to, const Weight& w) { store(reinterpret_cast<float*>(to), w); }

    static Spread spread(const Input* x) { return splat(*x); }

    static Floats multiply(Floats total, const Spread& x, const Weight& w) {
        return fma(x, w, total);
    }

    // Sixteen sums of a plain dot product, `count` elements (16 or fewer) further.
    static Floats dot(Floats total, const Input* x, const Stored* a, int count) {
        if (count < kReach) return fma(load(x, count), load(a, count), total);
        return fma(load(x), load(a), total);
    }
};

}  // namespace
