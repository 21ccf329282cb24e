// Sixteen floats as two AVX2 registers.
#pragma once

#include <immintrin.h>

#include "nf4.h"

namespace {

constexpr int kRows = 2;  // rows multiplied together: as many as leave the sums in registers

struct Floats {
    __m256 low, high;
};

inline Floats splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }

inline Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }

inline __m256 widened(const Bf16* from) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

inline Floats load(const Bf16* from) { return {widened(from), widened(from + 8)}; }

inline void store(float* to, Floats a) {
    _mm256_storeu_ps(to, a.low);
    _mm256_storeu_ps(to + 8, a.high);
}

// Rounded to nearest even, in the lower half of each word; any NaN becomes the quiet one.
inline __m256i rounded_bf16(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
}

inline void store(Bf16* to, Floats a) {
    const __m256i mixed = _mm256_packus_epi32(rounded_bf16(a.low), rounded_bf16(a.high));
    const __m256i ordered = _mm256_permute4x64_epi64(mixed, 0b11'01'10'00);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), ordered);
}

inline Floats add(Floats a, Floats b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

inline Floats mul(Floats a, Floats b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

inline Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

inline Floats div(Floats a, Floats b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

inline Floats maximum(Floats a, Floats b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

inline Floats rounded(Floats a) {
    constexpr int how = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, how), _mm256_round_ps(a.high, how)};
}

// x in the lanes where a < b, y in the others
inline Floats where_less(Floats a, Floats b, Floats x, Floats y) {
    return {
        _mm256_blendv_ps(y.low, x.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
        _mm256_blendv_ps(y.high, x.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}

inline Floats gather(const float* from, const int32_t* places) {
    const __m256i* eight = reinterpret_cast<const __m256i*>(places);
    return {
        _mm256_i32gather_ps(from, _mm256_loadu_si256(eight), sizeof(float)),
        _mm256_i32gather_ps(from, _mm256_loadu_si256(eight + 1), sizeof(float))};
}

inline __m256 power_of_two(__m256 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

// a * 2^n for whole n of -126 to 127
inline Floats scaled(Floats a, Floats n) { return mul(a, {power_of_two(n.low), power_of_two(n.high)}); }

inline float sum(Floats a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline Floats sums(const Floats (&a)[16]) {
    float lane[16];
    for (int i = 0; i < 16; i++) lane[i] = sum(a[i]);
    return load(lane);
}

inline float largest(Floats a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

template <int shift>
inline __m256 nf4_eight(const uint8_t* line) {
    const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(line));
    const __m256i index = _mm256_srli_epi32(words, shift);
    const __m256 lower = _mm256_permutevar8x32_ps(_mm256_load_ps(kNf4), index);
    const __m256 upper = _mm256_permutevar8x32_ps(_mm256_load_ps(kNf4 + 8), index);
    // bit 3 of the code, moved to the sign, chooses the table's half
    return _mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}

// The table's values at bits [shift, shift + 4) of sixteen words.
template <int shift>
inline Floats nf4_values(const uint8_t* line) {
    return {nf4_eight<shift>(line), nf4_eight<shift>(line + 32)};
}

}  // namespace
