// The token mixer of a TRM in bfloat16, forward and backward, for processors with AVX512-BF16.
//
//     gate = G x,  up = U x,  y = W (silu(gate) * up)        x, y: (T, D) of one example
//
// What this saves against matrix products from a library: the inner activations (K x D, many times the state)
// never leave the cache, and the positions (T = 21) fill no vector register, while the D features do.
//
// Numbers: products are summed in float32; gate, up, silu(gate), the inner activation, their gradients and
// the results are rounded to bfloat16, as in PyTorch's own operations one after the other. Gradients of the
// weights are float32. Examples are split into CHUNKS that do not depend on the threads, and so is every sum.
//
// Two values of consecutive rows stand side by side in a "pair" of 32 bits, as vdpbf16ps multiplies them.
// A panel is LANES * C columns of one example.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

using pair = std::uint32_t;

constexpr int WIDEST = 4;  // registers side by side in a panel
constexpr int COLUMNS = LANES * WIDEST;
constexpr int INNER =
    64;                   // rows of inner activations that the backward pass works on at a time, in the cache
constexpr int MOST = 64;  // positions
constexpr int CHUNKS = 16;

inline __m512bh as_bf16(__m512i x) { return (__m512bh)x; }
inline __m512i load(const pair* at) { return _mm512_loadu_si512(at); }
inline __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, as_bf16(a), as_bf16(b)); }
inline __m512i every(pair x) { return _mm512_set1_epi32((int)x); }

inline __m512i paired(__m256i first, __m256i second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}

// The weights in bfloat16, as the products want them. H = ceil(T / 2) pairs of positions.
struct Weights {
    int positions, halves, inner;
    std::vector<pair> gate, up;      // (K, H): pairs of positions
    std::vector<pair> down;          // (T, K / 2): pairs of inner rows
    std::vector<pair> down_t;        // (K, H): pairs of positions
    std::vector<pair> gate_t, up_t;  // (T, K / 2): pairs of inner rows

    Weights(const float* gate_up_2KT, const float* down_TK, int T, int K, bool backward)
        : positions(T), halves((T + 1) / 2), inner(K) {
        const std::vector<bf16> gate_up = narrow(gate_up_2KT, 2L * K * T),
                                all_down = narrow(down_TK, (long)T * K);
        const bf16 *gate_KT = gate_up.data(), *up_KT = gate_KT + (long)K * T;
        gate = over_positions(gate_KT, T, 1);
        up = over_positions(up_KT, T, 1);
        down = over_inner(all_down.data(), K, 1);
        if (!backward) return;
        down_t = over_positions(all_down.data(), 1, K);
        gate_t = over_inner(gate_KT, 1, T);
        up_t = over_inner(up_KT, 1, T);
    }

 private:
    static std::vector<bf16> narrow(const float* w, long count) {
        std::vector<bf16> out(count);
        for (long i = 0; i < count; i += LANES) {
            const __mmask16 there = (__mmask16)((1u << std::min<long>(LANES, count - i)) - 1);
            _mm256_mask_storeu_epi16(&out[i], there, narrowed(_mm512_maskz_loadu_ps(there, w + i)));
        }
        return out;
    }
    std::vector<pair> over_positions(const bf16* w, long per_inner, long per_position) const {
        std::vector<pair> out((long)inner * halves);
        for (long k = 0; k < inner; ++k)
            for (long h = 0; h < halves; ++h) {
                const bf16* at = w + k * per_inner + 2 * h * per_position;
                out[k * halves + h] = at[0] | (2 * h + 1 < positions ? (pair)at[per_position] << 16 : 0);
            }
        return out;
    }
    std::vector<pair> over_inner(const bf16* w, long per_position, long per_inner) const {
        std::vector<pair> out((long)positions * inner / 2);
        for (long t = 0; t < positions; ++t)
            for (long k = 0; k < inner; k += 2) {
                const bf16* at = w + t * per_position + k * per_inner;
                out[t * (inner / 2) + k / 2] = at[0] | (pair)at[per_inner] << 16;
            }
        return out;
    }
};

// Pairs of positions of a panel: (H, COLUMNS).
template <int C>
void pack(const bf16* x, long D, int T, pair* out) {
    for (int t = 0; t < T; t += 2)
        for (int c = 0; c < C; ++c) {
            const __m256i first = _mm256_loadu_si256((const __m256i*)(x + t * D + c * LANES));
            const __m256i second = t + 1 < T
                                       ? _mm256_loadu_si256((const __m256i*)(x + (t + 1) * D + c * LANES))
                                       : _mm256_setzero_si256();
            _mm512_storeu_si512(out + (t / 2) * COLUMNS + c * LANES, paired(first, second));
        }
}

// Pairs of features of a panel, positions side by side: (C * LANES / 2, L * LANES).
template <int C, int L>
void transpose(const bf16* x, long D, int T, pair* out) {
    for (int t = 0; t < T; ++t)
        for (int j = 0; j < C * LANES / 2; ++j) std::memcpy(out + j * L * LANES + t, x + t * D + 2 * j, 4);
}

// sums[r][c] += sum over `count` pairs of a[r][.] b[.][c]; rows of b are `stride` pairs apart.
template <int R, int C>
inline void product(__m512 (&sums)[R][C], const pair* const (&a)[R], const pair* b, int count, int stride) {
    for (int i = 0; i < count; ++i) {
        __m512i right[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) right[c] = load(b + (long)i * stride + c * LANES);
#pragma GCC unroll 32
        for (int r = 0; r < R; ++r) {
            const __m512i left = every(a[r][i]);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) sums[r][c] = dot(sums[r][c], left, right[c]);
        }
    }
}

// R rows from `first` on of out += a b, float32. Rows of a are `a_stride` pairs apart.
template <int R, int C>
inline void add_rows(float* out, int out_stride, const pair* a, int a_stride, const pair* b, int b_stride,
                     int count) {
    __m512 sums[R][C];
    const pair* rows[R];
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
        rows[r] = a + (long)r * a_stride;
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sums[r][c] = _mm512_loadu_ps(out + (long)r * out_stride + c * LANES);
    }
    product<R, C>(sums, rows, b, count, b_stride);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) _mm512_storeu_ps(out + (long)r * out_stride + c * LANES, sums[r][c]);
}

// The same for any number of rows, 24 registers of sums at a time.
template <int C>
void add_product(float* out, int out_stride, const pair* a, int a_stride, const pair* b, int b_stride,
                 int rows, int count) {
    constexpr int R = C == 4 ? 6 : C == 3 ? 8 : C == 2 ? 12 : 16;
    int r = 0;
    for (; r + R <= rows; r += R)
        add_rows<R, C>(out + (long)r * out_stride, out_stride, a + (long)r * a_stride, a_stride, b, b_stride,
                       count);
    for (; r + 3 <= rows; r += 3)
        add_rows<3, C>(out + (long)r * out_stride, out_stride, a + (long)r * a_stride, a_stride, b, b_stride,
                       count);
    for (; r < rows; ++r)
        add_rows<1, C>(out + (long)r * out_stride, out_stride, a + (long)r * a_stride, a_stride, b, b_stride,
                       count);
}

// Gate and up of the inner rows k and k + 1.
template <int C>
inline void gates(const Weights& w, const pair* x, int k, __m512 (&out)[4][C]) {
    const pair* const rows[4] = {&w.gate[(long)k * w.halves], &w.gate[(long)(k + 1) * w.halves],
                                 &w.up[(long)k * w.halves], &w.up[(long)(k + 1) * w.halves]};
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) out[r][c] = _mm512_setzero_ps();
    product<4, C>(out, rows, x, w.halves, COLUMNS);
}

template <int C>
void store(const float* sums, int T, bf16* out, long D) {
    for (int t = 0; t < T; ++t)
        for (int c = 0; c < C; ++c)
            _mm256_storeu_si256((__m256i*)(out + t * D + c * LANES),
                                narrowed(_mm512_loadu_ps(sums + t * COLUMNS + c * LANES)));
}

// x + sums, divided by its root mean square over the positions.
template <int C>
void store_normed(float* sums, const bf16* x, int T, bf16* out, long D) {
    for (int c = 0; c < C; ++c) {
        __m512 squares = _mm512_setzero_ps();
        for (int t = 0; t < T; ++t) {
            float* at = sums + t * COLUMNS + c * LANES;
            const __m512 sum =
                rounded(_mm512_add_ps(loaded(x + t * D + c * LANES), rounded(_mm512_loadu_ps(at))));
            squares = _mm512_fmadd_ps(sum, sum, squares);
            _mm512_storeu_ps(at, sum);
        }
        const __m512 scale = scale_of(_mm512_div_ps(squares, _mm512_set1_ps((float)T)));
        for (int t = 0; t < T; ++t)
            keep(out + t * D + c * LANES,
                 _mm512_mul_ps(_mm512_loadu_ps(sums + t * COLUMNS + c * LANES), scale));
    }
}

// Memory of one thread.
struct alignas(64) Scratch {
    pair x[MOST / 2 * COLUMNS], g[MOST / 2 * COLUMNS];      // pairs of positions
    pair x_t[COLUMNS / 2 * MOST], g_t[COLUMNS / 2 * MOST];  // pairs of features
    float sums[MOST * COLUMNS];
    float inner_grad[INNER * COLUMNS];
    pair gate[INNER / 2 * COLUMNS], up[INNER / 2 * COLUMNS];  // gradients, pairs of inner rows
    bf16 rows[3][INNER * COLUMNS];  // gradients of gate and up, and the inner activation
    std::vector<pair> inner;        // (K / 2, COLUMNS), forward
};

template <int C>
void forward_panel(const Weights& w, const bf16* x, bf16* y, long D, bool normed, Scratch& s) {
    const int T = w.positions, K = w.inner;
    pack<C>(x, D, T, s.x);
    for (int k = 0; k < K; k += 2) {
        __m512 gate_up[4][C];
        gates<C>(w, s.x, k, gate_up);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
            __m256i inner[2];
#pragma GCC unroll 2
            for (int r = 0; r < 2; ++r) {
                const __m512 gate = rounded(gate_up[r][c]), up = rounded(gate_up[2 + r][c]);
                inner[r] = narrowed(_mm512_mul_ps(rounded(_mm512_mul_ps(gate, sigmoid(gate))), up));
            }
            _mm512_storeu_si512(&s.inner[(long)(k / 2) * COLUMNS + c * LANES], paired(inner[0], inner[1]));
        }
    }
    std::memset(s.sums, 0, sizeof(float) * T * COLUMNS);
    add_product<C>(s.sums, COLUMNS, w.down.data(), K / 2, s.inner.data(), COLUMNS, T, K / 2);
    if (normed)
        store_normed<C>(s.sums, x, T, y, D);
    else
        store<C>(s.sums, T, y, D);
}

// Adds to the gradients of gate and up (2 K, L * LANES) and of down, transposed (K, L * LANES).
template <int C, int L>
void backward_panel(const Weights& w, const bf16* g, const bf16* x, bf16* grad, float* gate_up_grad,
                    float* down_grad, long D, Scratch& s) {
    const int T = w.positions, K = w.inner, H = w.halves;
    pack<C>(x, D, T, s.x);
    pack<C>(g, D, T, s.g);
    transpose<C, L>(x, D, T, s.x_t);
    transpose<C, L>(g, D, T, s.g_t);
    std::memset(s.sums, 0, sizeof(float) * T * COLUMNS);
    for (int block = 0; block < K; block += INNER) {
        std::memset(s.inner_grad, 0, sizeof(s.inner_grad));
        add_product<C>(s.inner_grad, COLUMNS, &w.down_t[(long)block * H], H, s.g, COLUMNS, INNER, H);
        for (int k = 0; k < INNER; k += 2) {
            __m512 gate_up[4][C];
            gates<C>(w, s.x, block + k, gate_up);
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) {
                __m256i gate_grad[2], up_grad[2];
#pragma GCC unroll 2
                for (int r = 0; r < 2; ++r) {
                    const int at = (k + r) * COLUMNS + c * LANES;
                    const __m512 gate = rounded(gate_up[r][c]), up = rounded(gate_up[2 + r][c]);
                    const __m512 inner_grad = rounded(_mm512_loadu_ps(s.inner_grad + at));
                    const __m512 one = _mm512_set1_ps(1.0f), sigma = sigmoid(gate);
                    const __m512 silu = rounded(_mm512_mul_ps(gate, sigma));
                    const __m512 slope =
                        _mm512_mul_ps(sigma, _mm512_fmadd_ps(gate, _mm512_sub_ps(one, sigma), one));
                    const __m512 silu_grad = rounded(_mm512_mul_ps(inner_grad, up));
                    gate_grad[r] = narrowed(_mm512_mul_ps(silu_grad, slope));
                    up_grad[r] = narrowed(_mm512_mul_ps(inner_grad, silu));
                    _mm256_storeu_si256((__m256i*)(s.rows[0] + at), gate_grad[r]);
                    _mm256_storeu_si256((__m256i*)(s.rows[1] + at), up_grad[r]);
                    _mm256_storeu_si256((__m256i*)(s.rows[2] + at), narrowed(_mm512_mul_ps(silu, up)));
                }
                const int at = k / 2 * COLUMNS + c * LANES;
                _mm512_storeu_si512(s.gate + at, paired(gate_grad[0], gate_grad[1]));
                _mm512_storeu_si512(s.up + at, paired(up_grad[0], up_grad[1]));
            }
        }
        constexpr int W = L * LANES, STRIDE = COLUMNS / 2, PAIRS = C * LANES / 2;
        const auto rows = [&](int which) { return (const pair*)s.rows[which]; };
        add_product<L>(gate_up_grad + (long)block * W, W, rows(0), STRIDE, s.x_t, W, INNER, PAIRS);
        add_product<L>(gate_up_grad + (long)(K + block) * W, W, rows(1), STRIDE, s.x_t, W, INNER, PAIRS);
        add_product<L>(down_grad + (long)block * W, W, rows(2), STRIDE, s.g_t, W, INNER, PAIRS);
        add_product<C>(s.sums, COLUMNS, &w.gate_t[block / 2], K / 2, s.gate, COLUMNS, T, INNER / 2);
        add_product<C>(s.sums, COLUMNS, &w.up_t[block / 2], K / 2, s.up, COLUMNS, T, INNER / 2);
    }
    store<C>(s.sums, T, grad, D);
}

// f(std::integral_constant<int, C>, column) for the panels of D columns.
template <class F>
void panels(long D, F f) {
    long column = 0;
    for (; column + COLUMNS <= D; column += COLUMNS) f(std::integral_constant<int, 4>(), column);
    switch ((D - column) / LANES) {
        case 1:
            f(std::integral_constant<int, 1>(), column);
            break;
        case 2:
            f(std::integral_constant<int, 2>(), column);
            break;
        case 3:
            f(std::integral_constant<int, 3>(), column);
            break;
        default:
            break;
    }
}

template <int L>
void backward_chunk(const Weights& w, const bf16* g, const bf16* x, bf16* grad, float* sums, long first,
                    long last, long D, Scratch& s) {
    std::memset(s.x_t, 0, sizeof(s.x_t));
    std::memset(s.g_t, 0, sizeof(s.g_t));
    float* down_sums = sums + (long)2 * w.inner * L * LANES;
    for (long b = first; b < last; ++b)
        panels(D, [&](auto columns, long column) {
            const long at = b * w.positions * D + column;
            backward_panel<decltype(columns)::value, L>(w, g + at, x + at, grad + at, sums, down_sums, D, s);
        });
}

}  // namespace

// With `normed`, y is rms(x + y), over the positions. Every array is contiguous; T <= 64, D a multiple of 16,
// K of 64.
extern "C" void mixed(const bf16* x_BTD, const float* gate_up_2KT, const float* down_TK, bf16* y_BTD, long B,
                      long T, long D, long K, int normed, int threads) {
    const Weights w(gate_up_2KT, down_TK, (int)T, (int)K, false);
#pragma omp parallel num_threads(threads)
    {
        const std::unique_ptr<Scratch> s(new Scratch);
        s->inner.resize(K / 2 * COLUMNS);
#pragma omp for schedule(static)
        for (long b = 0; b < B; ++b)
            panels(D, [&](auto columns, long column) {
                const long at = b * T * D + column;
                forward_panel<decltype(columns)::value>(w, x_BTD + at, y_BTD + at, D, normed, *s);
            });
    }
}

extern "C" void mixed_backward(const bf16* g_BTD, const bf16* x_BTD, const float* gate_up_2KT,
                               const float* down_TK, bf16* grad_BTD, float* gate_up_grad_2KT,
                               float* down_grad_TK, long B, long T, long D, long K, int threads) {
    const Weights w(gate_up_2KT, down_TK, (int)T, (int)K, true);
    const long registers = (T + LANES - 1) / LANES, width = registers * LANES, size = 3 * K * width;
    std::vector<float> sums(CHUNKS * size);
#pragma omp parallel num_threads(threads)
    {
        const std::unique_ptr<Scratch> s(new Scratch);
#pragma omp for schedule(static)
        for (long chunk = 0; chunk < CHUNKS; ++chunk) {
            const long first = B * chunk / CHUNKS, last = B * (chunk + 1) / CHUNKS;
            float* own = &sums[chunk * size];
            const auto run = [&](auto count) {
                backward_chunk<decltype(count)::value>(w, g_BTD, x_BTD, grad_BTD, own, first, last, D, *s);
            };
            if (registers == 1) run(std::integral_constant<int, 1>());
            if (registers == 2) run(std::integral_constant<int, 2>());
            if (registers == 3) run(std::integral_constant<int, 3>());
            if (registers == 4) run(std::integral_constant<int, 4>());
        }
    }
    for (long k = 0; k < 3 * K; ++k)
        for (long t = 0; t < T; ++t) {
            float sum = 0.0f;
            for (long chunk = 0; chunk < CHUNKS; ++chunk) sum += sums[chunk * size + k * width + t];
            if (k < 2 * K)
                gate_up_grad_2KT[k * T + t] = sum;
            else
                down_grad_TK[t * K + k - 2 * K] = sum;
        }
}
