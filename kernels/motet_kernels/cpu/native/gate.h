// The gate of an MLP.
#pragma once

#include "softmax.h"

namespace {

// out = silu(gate) * up, silu(x) = x / (1 + e^-x) rounded to T before the product.
template <class T>
inline void silu_gate(const T* gate, const T* up, int64_t size, T* out) {
    for (int64_t i = 0; i < size; i += 16) {
        const Floats x = load_up_to(gate + i, size - i);
        const Floats denominator = add(exponential(mul(x, splat(-1.0f))), splat(1.0f));
        const Floats opened = rounded_to<T>(div(x, denominator));
        store_up_to(out + i, mul(opened, load_up_to(up + i, size - i)), size - i);
    }
}

}  // namespace
