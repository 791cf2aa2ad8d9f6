// Copies that leave the cache alone: a large state would pass through it, read once more than it needs to be.

#include <algorithm>

#include "vectors.h"

// Copies N numbers; 1: all are finite.
extern "C" int copied(const float* from_N, float* to_N, long N, int) {
    const __m512i exponent = _mm512_set1_epi32(0x7f800000);
    __mmask16 wrong = 0;
    // The first number that a whole register can be stored at, past the cache; what is before and behind goes
    // by masked registers.
    const long before = std::min<long>(N, (long)((64 - ((std::uintptr_t)to_N & 63)) & 63) / 4);
    const auto part = [&](long at, long count) {
        const __mmask16 there = (__mmask16)((1u << count) - 1);
        const __m512i x = _mm512_maskz_loadu_epi32(there, from_N + at);
        wrong |= _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, exponent), exponent);
        _mm512_mask_storeu_epi32(to_N + at, there, x);
    };
    part(0, before);
    long i = before;
    for (; i + LANES <= N; i += LANES) {
        const __m512i x = _mm512_loadu_si512(from_N + i);
        wrong |= _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, exponent), exponent);
        _mm512_stream_si512((__m512i*)(to_N + i), x);
    }
    part(i, N - i);
    _mm_sfence();
    return wrong == 0;
}
