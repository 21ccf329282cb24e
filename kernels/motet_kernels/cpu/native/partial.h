// Loads and stores of fewer than sixteen elements, for the last columns: rare, so by a copy.
#pragma once

#include <cstring>

#include "abi.h"

namespace {

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

// Sixteen elements, or fewer at the end of a row; lanes past `count` are zero.
template <class T>
inline Floats load_up_to(const T* from, int64_t count) {
    return count < 16 ? load(from, int(count)) : load(from);
}

template <class T>
inline void store_up_to(T* to, const Floats& a, int64_t count) {
    if (count < 16)
        store(to, a, int(count));
    else
        store(to, a);
}

// What is left of `a` once it has been stored as a T.
template <class T>
inline Floats rounded_to(const Floats& a) {
    T stored[16];
    store(stored, a);
    return load(stored);
}

template <>
inline Floats rounded_to<float>(const Floats& a) {
    return a;
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
__attribute__((noinline)) Pair load_last_block(const T* from, int width) {
    if (width > 16) return {load(from), load(from + 16, width - 16)};
    return {load(from, width), splat(0.0f)};
}

// By value: what is passed by its address has to be in memory all along.
template <class T>
__attribute__((noinline)) void store_last_block(T* to, Pair a, int width) {
    if (width > 16) {
        store(to, a.first);
        store(to + 16, a.second, width - 16);
    } else {
        store(to, a.first, width);
    }
}

// Inlined whatever the compiler thinks: a call would send everything in registers through memory.
template <class T>
__attribute__((always_inline)) inline Pair load_block(const T* from, int width) {
    if (__builtin_expect(width == kBlockWidth, 1)) return {load(from), load(from + 16)};
    return load_last_block(from, width);
}

template <class T>
__attribute__((always_inline)) inline void store_block(T* to, const Pair& a, int width) {
    if (__builtin_expect(width != kBlockWidth, 0)) return store_last_block(to, Pair{a.first, a.second}, width);
    store(to, a.first);
    store(to + 16, a.second);
}

}  // namespace
