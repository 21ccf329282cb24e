// Rotary position embedding of one head, the halves of which make the pairs (GPT-NeoX's order).
#pragma once

#include "partial.h"

namespace {

// out = x * cos + (-second half of x, first half of x) * sin, each product rounded to T before the
// sum, as transformers does. cos, sin [size]; size is even; out may be x.
template <class T>
inline void rotate(const T* x, const T* cos, const T* sin, int64_t size, T* out) {
    const int64_t half = size / 2;
    const auto product = [](const Floats& a, const Floats& b) { return rounded_to<T>(mul(a, b)); };
    for (int64_t i = 0; i < half; i += 16) {
        const int64_t left = half - i;
        const Floats first = load_up_to(x + i, left), second = load_up_to(x + half + i, left);
        const Floats turned = mul(second, splat(-1.0f));
        const Floats low = add(
            product(first, load_up_to(cos + i, left)), product(turned, load_up_to(sin + i, left)));
        const Floats high = add(
            product(second, load_up_to(cos + half + i, left)),
            product(first, load_up_to(sin + half + i, left)));
        store_up_to(out + i, low, left);
        store_up_to(out + half + i, high, left);
    }
}

}  // namespace
