// Sixteen numbers at a time, with AVX512-BF16: rounding, exponentials, memory in bfloat16.

#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

using bf16 = std::uint16_t;

constexpr int LANES = 16;  // float32 numbers in a register
constexpr float EPS = 1e-5f;

inline __m256i narrowed(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
// To the nearest bfloat16 (Veltkamp 1968), up to 5e33: cheaper than there and back. The compiler must not
// fuse it.
inline __m512 rounded(__m512 x) {
    const __m512 far = _mm512_mul_ps(x, _mm512_set1_ps(65537.0f));
    return _mm512_sub_ps(far, _mm512_sub_ps(far, x));
}

// exp(x), x held within -80 and 80; relative error below 2e-6, and 2e-7 near 0, where it is 1. It is 2^n 2^r,
// where n is the integer nearest to x / log 2.
inline __m512 exponential(__m512 x) {
    const __m512 limit = _mm512_set1_ps(80.0f), slope = _mm512_set1_ps(1.44269504f);
    const __m512 magic = _mm512_set1_ps(12582912.0f);  // 1.5 * 2^23: what is added to it ends in n
    // Of the two operands the second is what is not a number.
    x = _mm512_min_ps(limit, _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), limit), x));
    const __m512 shifted = _mm512_fmadd_ps(x, slope, magic);
    const __m512 r = _mm512_fmsub_ps(x, slope, _mm512_sub_ps(shifted, magic));
    __m512 power = _mm512_set1_ps(1.3264727e-3f);
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(9.6715130e-3f));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(5.5507336e-2f));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(2.4022242e-1f));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(6.9314700e-1f));
    power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(1.0f));
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(power), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}

inline __m512 sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

inline __m512 loaded(const bf16* at) {
    const __m256i half = _mm256_loadu_si256((const __m256i*)at);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void keep(bf16* at, __m512 x) { _mm256_storeu_si256((__m256i*)at, narrowed(x)); }

// 1 / sqrt(mean + eps)
inline __m512 scale_of(__m512 mean) {
    return _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(_mm512_add_ps(mean, _mm512_set1_ps(EPS))));
}

}  // namespace
