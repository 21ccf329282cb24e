// The activations of lowrank.py's ACTIVATIONS, sixteen floats at a time: what an element becomes
// does not depend on its lane.
#pragma once

#include "softmax.h"

namespace {

enum Activation { kIdentity, kRelu, kGelu, kGeluNew, kSilu, kTanh, kSigmoid };

inline Floats negative(const Floats& x) { return mul(x, splat(-1.0f)); }

template <int count>
inline Floats polynomial(const Floats& x, const float (&coefficients)[count]) {
    Floats total = splat(coefficients[count - 1]);
    for (int i = count - 2; i >= 0; i--) total = fma(total, x, splat(coefficients[i]));
    return total;
}

inline Floats sigmoid(const Floats& x) {
    return div(splat(1.0f), add(exponential(negative(x)), splat(1.0f)));
}

// Near zero x + x^3 P(x^2), P fitted to 2e-8; elsewhere 1 - 2 / (e^2|x| + 1) with x's sign.
inline Floats hyperbolic_tangent(const Floats& x) {
    constexpr float kP[] = {
        -0.3333332861062104f, 0.1333273279042228f, -0.053844988975656746f,
        0.0209681869836682f, -0.0060536973998889f};
    const Floats square = mul(x, x);
    const Floats near = fma(mul(x, square), polynomial(square, kP), x);
    const Floats size = where_less(x, splat(0.0f), negative(x), x);
    const Floats power = exponential(add(size, size));
    const Floats part = add(splat(1.0f), div(splat(-2.0f), add(power, splat(1.0f))));
    const Floats far = where_less(x, splat(0.0f), negative(part), part);
    return where_less(size, splat(0.625f), near, far);
}

// 1 - erf(z) for z >= 0, relative error 3e-7: t e^(P(t) - z^2), t = 1 / (1 + z / 2), with P fitted.
// The form is Numerical Recipes' (Press et al. 1992, section 6.2).
inline Floats complementary_error(const Floats& z) {
    constexpr float kP[] = {
        -1.2655110952925424f, 1.000012800785104f, 0.3739916610414691f, 0.09855393293348882f,
        -0.1960718212665352f, 0.3068549930846571f, -1.1812281101804778f, 1.5324069556464992f,
        -0.8447338605347234f, 0.17572462335068414f};
    const Floats t = div(splat(1.0f), fma(z, splat(0.5f), splat(1.0f)));
    return mul(t, exponential(fma(negative(z), z, polynomial(t, kP))));
}

// x (1 + erf(x / sqrt(2))) / 2
inline Floats gelu(const Floats& x) {
    const Floats size = where_less(x, splat(0.0f), negative(x), x);
    const Floats outside = complementary_error(mul(size, splat(0.70710678118654752f)));
    const Floats inside = add(splat(2.0f), negative(outside));
    return mul(mul(x, splat(0.5f)), where_less(x, splat(0.0f), outside, inside));
}

// x (1 + tanh(k)) / 2, k = sqrt(2 / pi) (x + 0.044715 x^3), which is x sigmoid(2 k).
inline Floats gelu_new(const Floats& x) {
    const Floats inner = fma(mul(mul(x, x), x), splat(0.044715f), x);
    return mul(x, sigmoid(mul(inner, splat(1.59576912160573071f))));
}

inline Floats activated(const Floats& x, int64_t activation) {
    switch (activation) {
        case kRelu: return where_less(x, splat(0.0f), splat(0.0f), x);
        case kGelu: return gelu(x);
        case kGeluNew: return gelu_new(x);
        case kSilu: return mul(x, sigmoid(x));
        case kTanh: return hyperbolic_tangent(x);
        case kSigmoid: return sigmoid(x);
        default: return x;
    }
}

}  // namespace
