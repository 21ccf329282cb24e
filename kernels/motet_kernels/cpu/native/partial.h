// Loads and stores of fewer than sixteen elements, for the last columns: rare, so by a copy.
#pragma once

#include <cstring>

#include "abi.h"

namespace {

// An arithmetic's Session is what each thread holds while it computes block products: nothing here.
struct NoSession {};

template <class T>
inline Floats load(const T* from, int count) {
    T whole[16] = {};
    memcpy(whole, from, count * sizeof(T));
    return load(whole);
}

template <class T>
inline void store(T* to, const Floats& a, int count) {
    T whole[16];
    store(whole, a);
    memcpy(to, whole, count * sizeof(T));
}

inline float widened(Bf16 element) {
    const uint32_t bits = static_cast<uint32_t>(element.bits) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// One element as an arithmetic's input.
template <class Input, class T>
inline Input input_of(T element) {
    if constexpr (sizeof(Input) == sizeof(T)) return element;
    else return widened(element);
}

// Two registers of a block of up to 32 columns.
struct Pair {
    Floats first, second;
};

template <class T>
inline Pair load_block(const T* from, int width) {
    if (width == kBlockWidth) return {load(from), load(from + 16)};
    if (width > 16) return {load(from), load(from + 16, width - 16)};
    return {load(from, width), splat(0.0f)};
}

template <class T>
inline void store_block(T* to, const Pair& a, int width) {
    if (width == kBlockWidth) {
        store(to, a.first);
        store(to + 16, a.second);
    } else if (width > 16) {
        store(to, a.first);
        store(to + 16, a.second, width - 16);
    } else {
        store(to, a.first, width);
    }
}

}  // namespace
