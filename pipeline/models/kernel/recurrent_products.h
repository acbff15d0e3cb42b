// Vectors of one instruction set, their activations, and products of matrices over rows that lie anywhere. Compiled with
// recurrent_isa.cc, once per instruction set; all of it stays inside that file's object.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace duplet {
namespace {

#if defined(__AVX512F__)
constexpr int W = 16;  // floats to a vector
constexpr int MR = 6;  // rows of a register tile
constexpr int OM = 8, ON = 3;  // rows and vectors of a tile of an outer product
#else
constexpr int W = 8;
constexpr int MR = 3;
constexpr int OM = 4, ON = 3;
#endif
typedef float V __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t VI __attribute__((vector_size(W * 4)));
typedef float VO __attribute__((vector_size(OM * 4), aligned(4), may_alias));
typedef int64_t I;

inline V load(const float* p) { return *reinterpret_cast<const V*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<V*>(p) = v; }
inline V all(float x) { return x - V{}; }
inline I least(I a, I b) { return a < b ? a : b; }
inline I up(I a, I b) { return (a + b - 1) / b * b; }
inline V load_some(const float* p, I n) {
  if (n >= W) return load(p);
  float some[W] = {};
  for (I i = 0; i < n; i++) some[i] = p[i];
  return load(some);
}
inline void store_some(float* p, V v, I n) {
  if (n >= W) return store(p, v);
  float some[W];
  store(some, v);
  for (I i = 0; i < n; i++) p[i] = some[i];
}

// e^x by Cody and Waite's reduction and Cephes' polynomial, within 2 units in the last place; NaN stays NaN.
inline V exponential(V x) {
  const V high = all(88.f), low = all(-87.f);  // both saturate a sigmoid, and 2^n stays a normal number
  x = x > high ? high : x;
  x = x < low ? low : x;
  const V magic = all(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number
  V n = (x * 1.44269504088896341f + magic) - magic;
  V r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  V p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  V y = p * (r * r) + r + 1.f;
  V clean = n == n ? n : V{};
  VI bits = (__builtin_convertvector(clean, VI) + 127) << 23;
  return y * reinterpret_cast<V&>(bits);
}
inline V sigmoid(V x) { return 1.f / (1.f + exponential(-x)); }
inline V hyperbolic(V x) {  // tanh; near zero by its series, where 1 - 2/(e^2x + 1) would lose digits
  V wide = 1.f - 2.f / (exponential(x + x) + 1.f);
  V x2 = x * x;
  V near = x + x * x2 * (-0.333333333f + x2 * (0.133333333f - x2 * 0.053968254f));
  return x2 < 0.015625f ? near : wide;
}

// --- factors ----------------------------------------------------------------------------------------------------------
// What one instruction multiplies in a lane: a float, or with bfloat16 two that are neighbours in the direction of the
// sum (the first in the lower half), whose products are both added to a float. Factors are rounded to the nearest
// bfloat16; sums, and all that is no factor, stay float32.
#if defined(__AVX512BF16__)
typedef uint32_t F;
constexpr int FACTORS = 2;
typedef uint32_t VF __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t VOF __attribute__((vector_size(OM * 4), aligned(4), may_alias));
inline V add_product(V sum, VF a, VF b) { return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
inline VF every(F x) { return x - VF{}; }
inline VF joined(V first, V second) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)first));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)second));
  return (VF)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
inline VOF joined(VO first, VO second) {
  const __m256i low = _mm256_cvtepu16_epi32((__m128i)_mm256_cvtneps_pbh((__m256)first));
  const __m256i high = _mm256_cvtepu16_epi32((__m128i)_mm256_cvtneps_pbh((__m256)second));
  return (VOF)_mm256_or_si256(low, _mm256_slli_epi32(high, 16));
}
// n floats that are neighbours in the direction of the sum, to (n + 1) / 2 factors and zeros up to a whole vector.
inline void narrow(const float* from, I n, F* to) {
  for (I i = 0; i < n; i += W, to += W / 2)
    _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)load_some(from + i, n - i)));
}
inline I narrow_width(I n) { return up(n, 2 * W) / 2 + W; }  // of a row; one vector more, so that rows share no cache sets
#else
typedef float F;
constexpr int FACTORS = 1;
typedef V VF;
typedef VO VOF;
inline V add_product(V sum, VF a, VF b) { return sum + a * b; }
inline VF every(F x) { return all(x); }
inline VF joined(V first, V) { return first; }
inline VOF joined(VO first, VO) { return first; }
inline void narrow(const float* from, I n, F* to) { memcpy(to, from, sizeof(float) * n); }
inline I narrow_width(I) { return 0; }
#endif
inline VF load_factors(const F* p) { return *reinterpret_cast<const VF*>(p); }
inline void store_factors(F* p, VF v) { *reinterpret_cast<VF*>(p) = v; }
inline I factors(I n) { return (n + FACTORS - 1) / FACTORS; }

// Rows as products read them: where they lie, or with bfloat16 copied to `memory` of n * narrow_width(width) floats,
// their addresses to `to`.
inline const F* const* as_factors(I n, const float* const* rows, I width, float* memory, const F** to) {
  if (FACTORS == 1) return reinterpret_cast<const F* const*>(rows);
  for (I i = 0; i < n; i++) {
    F* row = reinterpret_cast<F*>(memory) + i * narrow_width(width);
    narrow(rows[i], width, row);
    to[i] = row;
  }
  return to;
}

// --- products ---------------------------------------------------------------------------------------------------------
enum Begin { ZERO, BIAS, ADD };

// C (M rows of NV vectors) = begin + A (M rows of k factors by their addresses) B (k rows of NV vectors).
template <int M, int NV>
__attribute__((noinline)) void tile(I k, const F* const* a, I at, const F* b, I ldb, const float* bias, float* const* c,
                                    Begin begin) {
  V sum[M][NV];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++)
      sum[m][v] = begin == ADD ? load(c[m] + v * W) : begin == BIAS ? load(bias + v * W) : V{};
  const F* row[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) row[m] = a[m] + at;
#pragma GCC unroll 2
  for (I i = 0; i < k; i++) {
    VF right[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) right[v] = load_factors(b + i * ldb + v * W);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const VF left = every(row[m][i]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[m][v] = add_product(sum[m][v], left, right[v]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) store(c[m] + v * W, sum[m][v]);
}

template <int NV>
inline void tiles(I m, I k, const F* const* a, I at, const F* b, I ldb, const float* bias, float* const* c, Begin begin) {
  for (; m >= MR; m -= MR, a += MR, c += MR) tile<MR, NV>(k, a, at, b, ldb, bias, c, begin);
  switch (m) {
    case 1: return tile<1, NV>(k, a, at, b, ldb, bias, c, begin);
    case 2: return tile<2, NV>(k, a, at, b, ldb, bias, c, begin);
#if defined(__AVX512F__)
    case 3: return tile<3, NV>(k, a, at, b, ldb, bias, c, begin);
    case 4: return tile<4, NV>(k, a, at, b, ldb, bias, c, begin);
    case 5: return tile<5, NV>(k, a, at, b, ldb, bias, c, begin);
#endif
  }
}

// C (OM rows of NV vectors, ldc apart) += the sum of k outer products: of A (k rows of OM factors) and B (k rows of NV vectors).
template <int NV>
__attribute__((noinline)) void outer_tile(I k, const F* a, const F* b, float* c, I ldc) {
  V sum[OM][NV];
#pragma GCC unroll 8
  for (int m = 0; m < OM; m++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) sum[m][v] = load(c + m * ldc + v * W);
#pragma GCC unroll 2
  for (I i = 0; i < k; i++) {
    VF right[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) right[v] = load_factors(b + i * NV * W + v * W);
#pragma GCC unroll 8
    for (int m = 0; m < OM; m++) {
      const VF left = every(a[i * OM + m]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[m][v] = add_product(sum[m][v], left, right[v]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < OM; m++)
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) store(c + m * ldc + v * W, sum[m][v]);
}

// The left operand's columns: `blocks` runs of `length` floats, `stride` apart. All but a single run are of even length.
struct Span {
  I blocks, length, stride;
};
constexpr I DEPTH = 128;  // factors of a slice of B that stays in the first cache

// Over one panel of B (packed, rows of nv vectors), in slices that stay in the first cache.
void product(I m, Span k, const F* const* a, const F* b, int nv, const float* bias, float* const* c, Begin begin) {
  if (m <= 0) return;
  const I length = factors(k.length), stride = factors(k.stride);
  for (I block = 0; block < k.blocks; block++)
    for (I from = 0; from < length; from += DEPTH) {
      const I depth = least(DEPTH, length - from), at = block * stride + from;
      const F* slice = b + (block * length + from) * nv * W;
      switch (nv) {
        case 2: tiles<2>(m, depth, a, at, slice, nv * W, bias, c, begin); break;
        case 3: tiles<3>(m, depth, a, at, slice, nv * W, bias, c, begin); break;
        case 4: tiles<4>(m, depth, a, at, slice, nv * W, bias, c, begin); break;
      }
      begin = ADD;
    }
}

}  // namespace
}  // namespace duplet
