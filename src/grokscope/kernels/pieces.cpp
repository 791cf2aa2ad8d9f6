// What stands between the products of a pass, in bfloat16: rounded where PyTorch's operations would round.

#include <algorithm>
#include <cmath>
#include <limits>

#include "vectors.h"

namespace {

constexpr long MOST = 64;  // positions

// softmax(q k^T / sqrt(N)) v of one head and one position that asks, over `count` positions from the first
// on.
void attend_one(const bf16* q, const bf16* k, long k_row, const bf16* v, long v_row, bf16* out, long count,
                long N) {
    alignas(64) float weights[MOST] = {};
    const float scale = 1.0f / std::sqrt((float)N);
    float most = -std::numeric_limits<float>::infinity(), sum = 0.0f;
    for (long t = 0; t < count; ++t) {
        __m512 products = _mm512_setzero_ps();
        for (long n = 0; n < N; n += LANES)
            products = _mm512_fmadd_ps(loaded(q + n), loaded(k + t * k_row + n), products);
        weights[t] = _mm512_reduce_add_ps(products) * scale;
        most = std::max(most, weights[t]);
    }
    for (long t = 0; t < count; t += LANES)
        _mm512_store_ps(weights + t,
                        exponential(_mm512_sub_ps(_mm512_load_ps(weights + t), _mm512_set1_ps(most))));
    for (long t = 0; t < count; ++t) sum += weights[t];
    for (long n = 0; n < N; n += LANES) {
        __m512 mixed = _mm512_setzero_ps();
        for (long t = 0; t < count; ++t)
            mixed = _mm512_fmadd_ps(_mm512_set1_ps(weights[t] / sum), loaded(v + t * v_row + n), mixed);
        keep(out + n, mixed);
    }
}

}  // namespace

// silu(gate) * up; gate and up are the halves of each row. M a multiple of 16.
extern "C" void gated(const bf16* gates_X2M, bf16* out_XM, long X, long M, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < X; ++row) {
        const bf16* gates = gates_X2M + row * 2 * M;
        for (long m = 0; m < M; m += LANES) {
            const __m512 gate = loaded(gates + m);
            const __m512 silu = rounded(_mm512_mul_ps(gate, sigmoid(gate)));
            keep(out_XM + row * M + m, _mm512_mul_ps(silu, loaded(gates + M + m)));
        }
    }
}

// rms(x + y) over the D features, D a multiple of 16; without y, rms(x).
extern "C" void normed(const bf16* x_XD, const bf16* y_XD, bf16* out_XD, long X, long D, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < X; ++row) {
        const bf16 *x = x_XD + row * D, *y = y_XD ? y_XD + row * D : nullptr;
        const auto sum = [&](long d) {
            return y ? rounded(_mm512_add_ps(loaded(x + d), loaded(y + d))) : loaded(x + d);
        };
        __m512 squares = _mm512_setzero_ps();
        for (long d = 0; d < D; d += LANES) squares = _mm512_fmadd_ps(sum(d), sum(d), squares);
        const __m512 scale = scale_of(_mm512_set1_ps(_mm512_reduce_add_ps(squares) / (float)D));
        for (long d = 0; d < D; d += LANES) keep(out_XD + row * D + d, _mm512_mul_ps(sum(d), scale));
    }
}

// GELU's tanh form, as x sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3). N a multiple of 16.
extern "C" void gelu(const bf16* x_N, bf16* out_N, long N, int threads) {
    const __m512 slope = _mm512_set1_ps(1.5957691216f), cubic = _mm512_set1_ps(0.044715f);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < N; i += LANES) {
        const __m512 x = loaded(x_N + i), square = _mm512_mul_ps(x, x);
        const __m512 twice_u =
            _mm512_mul_ps(_mm512_mul_ps(slope, x), _mm512_fmadd_ps(cubic, square, _mm512_set1_ps(1.0f)));
        keep(out_N + i, _mm512_mul_ps(x, sigmoid(twice_u)));
    }
}

// Attention over T <= 64 positions, or with `causal` up to the one that asks; N, a multiple of 16, numbers of
// a head side by side, H heads side by side, rows and examples as far apart as is said. out (B, A, H, N).
extern "C" void attend(const bf16* q, const bf16* k, const bf16* v, bf16* out, long q_example, long q_row,
                       long k_example, long k_row, long v_example, long v_row, long B, long A, long T, long H,
                       long N, long first, int causal, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long b = 0; b < B; ++b)
        for (long a = 0; a < A; ++a)
            for (long h = 0; h < H; ++h)
                attend_one(q + b * q_example + a * q_row + h * N, k + b * k_example + h * N, k_row,
                           v + b * v_example + h * N, v_row, out + ((b * A + a) * H + h) * N,
                           causal ? first + a + 1 : T, N);
}
