// What stands between the products of a pass, in bfloat16: rounded where PyTorch's operations would round.

#include "vectors.h"

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
