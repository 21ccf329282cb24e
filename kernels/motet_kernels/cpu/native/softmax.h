// exp, tanh and softmax over sixteen floats at a time.
#pragma once

#include "partial.h"

namespace {

// e^x to a few units in the last place; below -87 it is the smallest normal float, near enough 0.
// Polynomial and split of ln 2: Cephes' expf, http://www.netlib.org/cephes/
inline Floats exponential(Floats x) {
    // a NaN passes: maximum gives its second argument where they cannot be compared
    x = maximum(splat(-87.0f), x);
    x = mul(maximum(splat(-88.0f), mul(x, splat(-1.0f))), splat(-1.0f));
    const Floats n = rounded(mul(x, splat(1.44269504088896341f)));
    Floats r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Floats p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    return scaled(add(fma(mul(p, r), r, r), splat(1.0f)), n);
}

// cap * tanh(s / cap), by tanh(x) = 1 - 2 / (e^2x + 1)
inline Floats capped(Floats s, float cap) {
    const Floats power = exponential(mul(s, splat(2.0f / cap)));
    const Floats part = div(splat(-2.0f * cap), add(power, splat(1.0f)));
    return add(part, splat(cap));
}

// Overwrites `count` scores by their exponentials above the largest; returns the sum of those.
// The memory up to a multiple of 16 is overwritten too, by zeros.
inline float exponentials(float* scores, int64_t count) {
    const int64_t padded = (count + 15) / 16 * 16;
    for (int64_t i = count; i < padded; i++) scores[i] = scores[0];
    Floats top = load(scores);
    for (int64_t i = 16; i < padded; i += 16) top = maximum(top, load(scores + i));
    const Floats offset = splat(-largest(top));
    for (int64_t i = 0; i < padded; i += 16)
        store(scores + i, exponential(add(load(scores + i), offset)));
    for (int64_t i = count; i < padded; i++) scores[i] = 0.0f;
    Floats total = splat(0.0f);
    for (int64_t i = 0; i < padded; i += 16) total = add(total, load(scores + i));
    return sum(total);
}

}  // namespace
