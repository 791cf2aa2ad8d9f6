// What the lens reads off logits, in one look at each row: argmax, and rank and log-probability of targets.

#include <algorithm>
#include <cmath>
#include <limits>

#include "vectors.h"

namespace {

inline __mmask16 there(long left) { return (__mmask16)((1u << std::min<long>(LANES, left)) - 1); }

struct Row {
    const float* logits;
    long size;

    __m512 at(long i, float beyond) const {
        return _mm512_mask_loadu_ps(_mm512_set1_ps(beyond), there(size - i), logits + i);
    }
    // The first token with one of `which` a comparison with x gives; `size` if there is none.
    template <int which>
    long first(float x) const {
        for (long i = 0; i < size; i += LANES) {
            const __mmask16 found =
                _mm512_cmp_ps_mask(at(i, 0.0f), _mm512_set1_ps(x), which) & there(size - i);
            if (found) return i + __builtin_ctz(found);
        }
        return size;
    }
    float highest() const {
        __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
        for (long i = 0; i < size; i += LANES)
            most = _mm512_max_ps(most, at(i, -std::numeric_limits<float>::infinity()));
        return _mm512_reduce_max_ps(most);
    }
    // log(sum(exp(logits - most)))
    float log_sum(float most) const {
        __m512 sum = _mm512_setzero_ps();
        for (long i = 0; i < size; i += LANES) {
            const __m512 power = exponential(_mm512_sub_ps(at(i, most), _mm512_set1_ps(most)));
            sum = _mm512_mask_add_ps(sum, there(size - i), sum, power);
        }
        return std::log(_mm512_reduce_add_ps(sum));
    }
    // Logits not at most a token's own, and tokens before it that have the same.
    long rank(long token) const {
        const __m512 own = _mm512_set1_ps(logits[token]);
        long count = 0;
        for (long i = 0; i < size; i += LANES)
            count += __builtin_popcount(_mm512_cmp_ps_mask(at(i, 0.0f), own, _CMP_NLE_UQ) & there(size - i));
        for (long i = 0; i < token; i += LANES)
            count += __builtin_popcount(_mm512_cmp_ps_mask(at(i, 0.0f), own, _CMP_EQ_OQ) & there(token - i));
        return count;
    }
};

}  // namespace

extern "C" void readout(const float* logits_BSV, const std::int64_t* target_BC, std::int64_t* rank_BCS,
                        float* logp_BCS, std::int64_t* argmax_BS, long B, long C, long S, long V,
                        int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < B * S; ++row) {
        const long b = row / S, s = row % S;
        const Row own{logits_BSV + row * V, V};
        const long wrong = own.first<_CMP_UNORD_Q>(0.0f);  // a logit that is not a number
        const float most = own.highest();
        argmax_BS[row] = wrong < V ? wrong : own.first<_CMP_EQ_OQ>(most);
        const bool usable = wrong == V && std::isfinite(most);
        const float log_sum = usable ? own.log_sum(most) : std::numeric_limits<float>::quiet_NaN();
        for (long c = 0; c < C; ++c) {
            const long token = target_BC[b * C + c], at = (b * C + c) * S + s;
            rank_BCS[at] = own.rank(token);
            logp_BCS[at] = (own.logits[token] - most) - log_sum;
        }
    }
}
