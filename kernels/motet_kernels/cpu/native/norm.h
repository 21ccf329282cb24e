// RMSNorm of one row.
#pragma once

#include <cmath>

#include "partial.h"

namespace {

// out = weight * (x / sqrt(mean of x^2 + eps)), with the quotient rounded to T before it meets the
// weight, as transformers does. out may be x.
template <class T>
inline void rms_norm(const T* x, const T* weight, float eps, int64_t size, T* out) {
    Floats squares = splat(0.0f);
    for (int64_t i = 0; i < size; i += 16) {
        const Floats v = load_up_to(x + i, size - i);
        squares = fma(v, v, squares);
    }
    const Floats scale = splat(1.0f / std::sqrt(sum(squares) / float(size) + eps));
    for (int64_t i = 0; i < size; i += 16) {
        const Floats v = rounded_to<T>(mul(load_up_to(x + i, size - i), scale));
        store_up_to(out + i, mul(load_up_to(weight + i, size - i), v), size - i);
    }
}

}  // namespace
