#pragma once

#include <immintrin.h>

#include <cstdint>

// The vectors of the Bayes error's kernels on AVX-512; included after UNLEARN_INLINE and UNLEARN_NAMESPACE are defined.

namespace unlearn::UNLEARN_NAMESPACE {
namespace {

struct Singles {
  using Scalar = float;
  using Factor = float;
  typedef float Vector __attribute__((vector_size(64)));
  typedef std::int32_t Integers __attribute__((vector_size(64)));
  using Factors = Vector;
  static constexpr int width = 16, rows = 8, columns = 3, pairs = 1;  // of 32 registers 24 sums, 3 + 1 factors

  UNLEARN_INLINE static Vector load(const float* p) { return (Vector)_mm512_loadu_ps(p); }
  UNLEARN_INLINE static void store(float* p, Vector v) { _mm512_storeu_ps(p, (__m512)v); }
  UNLEARN_INLINE static Vector fma(Vector a, Vector b, Vector c) {
    return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  }
  UNLEARN_INLINE static Factors load_factors(const float* p) { return load(p); }
  UNLEARN_INLINE static Factors broadcast(float x) { return (Vector)_mm512_set1_ps(x); }
  UNLEARN_INLINE static Vector multiply_add(Factors a, Factors b, Vector c) { return fma(a, b, c); }

  // Swaps ever larger off-diagonal squares between rows.
  UNLEARN_INLINE static void transpose(Vector (&v)[16]) {
#pragma GCC unroll 4
    for (int step = 1; step < 16; step *= 2) {
      const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const __mmask16 high = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(step));
      const __m512i second = _mm512_add_epi32(lane, _mm512_set1_epi32(16 - step));
      const __m512i third = _mm512_add_epi32(lane, _mm512_set1_epi32(step));
      const __m512i above = _mm512_mask_mov_epi32(lane, high, second);
      const __m512i below = _mm512_mask_mov_epi32(third, high, _mm512_add_epi32(lane, _mm512_set1_epi32(16)));
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        if (r & step) continue;
        const __m512 a = (__m512)v[r], b = (__m512)v[r + step];
        v[r] = (Vector)_mm512_permutex2var_ps(a, above, b);
        v[r + step] = (Vector)_mm512_permutex2var_ps(a, below, b);
      }
    }
  }
};

}  // namespace
}  // namespace unlearn::UNLEARN_NAMESPACE
