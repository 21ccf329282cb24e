// Sixteen floats as one AVX-512 register.
#pragma once

#include <immintrin.h>

#include "nf4.h"
#include "repeat.h"

namespace {

constexpr int kRows = 8;  // rows multiplied together: as many as leave the sums in registers

using Floats = __m512;

inline Floats splat(float value) { return _mm512_set1_ps(value); }

inline Floats load(const float* from) { return _mm512_loadu_ps(from); }

inline Floats load(const Bf16* from) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline void store(float* to, Floats a) { _mm512_storeu_ps(to, a); }

inline void store(Bf16* to, Floats a) {
#ifdef __AVX512BF16__
    const __m256i narrow = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a));
#else
    // rounded to nearest even; any NaN becomes the quiet one
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_set1_epi32(0x7fc0);
    const __m256i narrow = _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
#endif
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow);
}

inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }

inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }

inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }

inline Floats maximum(Floats a, Floats b) { return _mm512_max_ps(a, b); }

inline Floats rounded(Floats a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// x in the lanes where a < b, y in the others
inline Floats where_less(Floats a, Floats b, Floats x, Floats y) {
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
}

inline Floats gather(const float* from, const int32_t* places) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(places), from, sizeof(float));
}

// a * 2^n for whole n of -126 to 127
inline Floats scaled(Floats a, Floats n) { return _mm512_scalef_ps(a, n); }

inline float sum(Floats a) { return _mm512_reduce_add_ps(a); }

// Lanes i and i + step of the first, then of the second, added up in pairs of neighbours.
inline Floats fold_neighbours(Floats a, Floats b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0b10'00'10'00), _mm512_shuffle_ps(a, b, 0b11'01'11'01));
}

inline Floats fold_quarters(Floats a, Floats b) {
    return _mm512_add_ps(
        _mm512_shuffle_f32x4(a, b, 0b10'00'10'00), _mm512_shuffle_f32x4(a, b, 0b11'01'11'01));
}

// Lane i: the sum of a[i]. Two folds bring four vectors' quarters side by side, two more add them.
__attribute__((always_inline)) inline Floats sums(const Floats (&a)[16]) {
    Floats four[4];
    repeat<4>([&](auto i) {
        four[i] = fold_neighbours(
            fold_neighbours(a[4 * i], a[4 * i + 1]), fold_neighbours(a[4 * i + 2], a[4 * i + 3]));
    });
    return fold_quarters(fold_quarters(four[0], four[1]), fold_quarters(four[2], four[3]));
}

inline float largest(Floats a) { return _mm512_reduce_max_ps(a); }

// The table's values at bits [shift, shift + 4) of sixteen words.
template <int shift>
inline Floats nf4_values(const uint8_t* line) {
    const __m512i index = _mm512_srli_epi32(_mm512_load_si512(line), shift);
    return _mm512_permutexvar_ps(index, _mm512_load_ps(kNf4));
}

}  // namespace
