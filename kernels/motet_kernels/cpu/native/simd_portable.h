// Sixteen floats in plain C++, which the compiler vectorises as far as its target goes.
#pragma once

#include <cmath>
#include <cstring>

#include "nf4.h"

namespace {

constexpr int kRows = 2;  // rows multiplied together: as many as leave the sums in registers

struct Floats {
    float lane[16];
};

template <class Function>
inline Floats each(Function function) {
    Floats result;
    for (int i = 0; i < 16; i++) result.lane[i] = function(i);
    return result;
}

inline Floats splat(float value) {
    return each([=](int) { return value; });
}

inline Floats load(const float* from) {
    return each([=](int i) { return from[i]; });
}

inline Floats load(const Bf16* from) {
    return each([=](int i) {
        const uint32_t bits = static_cast<uint32_t>(from[i].bits) << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    });
}

inline void store(float* to, const Floats& a) { memcpy(to, a.lane, sizeof a.lane); }

inline void store(Bf16* to, const Floats& a) {
    for (int i = 0; i < 16; i++) {
        uint32_t bits;
        memcpy(&bits, &a.lane[i], sizeof bits);
        const uint32_t nearest_even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        to[i].bits = static_cast<uint16_t>(a.lane[i] == a.lane[i] ? nearest_even : 0x7fc0);
    }
}

inline Floats add(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
}

inline Floats mul(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
}

// a * b + c, rounded twice: a fused one is a library call without hardware for it.
inline Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}

inline Floats div(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
}

inline Floats maximum(const Floats& a, const Floats& b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}

inline Floats rounded(const Floats& a) {
    return each([&](int i) { return nearbyintf(a.lane[i]); });
}

// x in the lanes where a < b, y in the others
inline Floats where_less(const Floats& a, const Floats& b, const Floats& x, const Floats& y) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i]; });
}

inline Floats gather(const float* from, const int32_t* places) {
    return each([=](int i) { return from[places[i]]; });
}

// a * 2^n for whole n of -126 to 127, or NaN where a is NaN too
inline Floats scaled(const Floats& a, const Floats& n) {
    return each([&](int i) {
        const float whole = n.lane[i] == n.lane[i] ? n.lane[i] : 0.0f;  // NaN is no integer
        const int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
        float power;
        memcpy(&power, &bits, sizeof power);
        return a.lane[i] * power;
    });
}

inline float sum(const Floats& a) {
    float part[8];
    for (int i = 0; i < 8; i++) part[i] = a.lane[i] + a.lane[i + 8];
    return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

inline Floats sums(const Floats (&a)[16]) {
    return each([&](int i) { return sum(a[i]); });
}

inline float largest(const Floats& a) {
    float value = a.lane[0];
    for (int i = 1; i < 16; i++) value = value > a.lane[i] ? value : a.lane[i];
    return value;
}

// The table's values at bits [shift, shift + 4) of sixteen words.
template <int shift>
inline Floats nf4_values(const uint8_t* line) {
    uint32_t words[16];
    memcpy(words, line, sizeof words);
    return each([&](int i) { return kNf4[words[i] >> shift & 15]; });
}

}  // namespace
