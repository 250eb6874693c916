// The Bayes error's kernels for processors with AVX2 and FMA.

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#define UNLEARN_TARGET __attribute__((target("avx2,fma")))
#define UNLEARN_NAMESPACE avx2
#include "bayes_error_kernel.h"

namespace unlearn {
namespace avx2 {
namespace {

struct Singles {
  using Scalar = float;
  using Factor = float;
  typedef float Vector __attribute__((vector_size(32)));
  typedef std::int32_t Integers __attribute__((vector_size(32)));
  using Factors = Vector;
  static constexpr int width = 8, rows = 4, columns = 3, pairs = 1;  // of 16 registers 12 sums, 3 + 1 factors

  UNLEARN_INLINE static Vector load(const float* p) { return (Vector)_mm256_loadu_ps(p); }
  UNLEARN_INLINE static void store(float* p, Vector v) { _mm256_storeu_ps(p, (__m256)v); }
  UNLEARN_INLINE static Vector fma(Vector a, Vector b, Vector c) {
    return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  }
  UNLEARN_INLINE static Factors load_factors(const float* p) { return load(p); }
  UNLEARN_INLINE static Factors broadcast(float x) { return (Vector)_mm256_set1_ps(x); }
  UNLEARN_INLINE static Vector multiply_add(Factors a, Factors b, Vector c) { return fma(a, b, c); }

  // Swaps ever larger off-diagonal squares between rows.
  UNLEARN_INLINE static void transpose(Vector (&v)[8]) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
#pragma GCC unroll 3
    for (int step = 1; step < 8; step *= 2) {
      const __m256i bit = _mm256_set1_epi32(step);
      const __m256 high = _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(lane, bit), bit));
      const __m256i up = _mm256_add_epi32(lane, bit), down = _mm256_sub_epi32(lane, bit);  // modulo 8
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) {
        if (r & step) continue;
        const __m256 a = (__m256)v[r], b = (__m256)v[r + step];
        v[r] = (Vector)_mm256_blendv_ps(a, _mm256_permutevar8x32_ps(b, down), high);
        v[r + step] = (Vector)_mm256_blendv_ps(_mm256_permutevar8x32_ps(a, up), b, high);
      }
    }
  }
};

struct Doubles {
  using Scalar = double;
  using Factor = double;
  typedef double Vector __attribute__((vector_size(32)));
  typedef std::int64_t Integers __attribute__((vector_size(32)));
  using Factors = Vector;
  static constexpr int width = 4, rows = 4, columns = 3, pairs = 1;

  UNLEARN_INLINE static Vector load(const double* p) { return (Vector)_mm256_loadu_pd(p); }
  UNLEARN_INLINE static void store(double* p, Vector v) { _mm256_storeu_pd(p, (__m256d)v); }
  UNLEARN_INLINE static Vector fma(Vector a, Vector b, Vector c) {
    return (Vector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
  }
  UNLEARN_INLINE static Factors load_factors(const double* p) { return load(p); }
  UNLEARN_INLINE static Factors broadcast(double x) { return (Vector)_mm256_set1_pd(x); }
  UNLEARN_INLINE static Vector multiply_add(Factors a, Factors b, Vector c) { return fma(a, b, c); }

  UNLEARN_INLINE static void transpose(Vector (&v)[4]) {
    const __m256d even[] = {_mm256_unpacklo_pd((__m256d)v[0], (__m256d)v[1]),
                            _mm256_unpacklo_pd((__m256d)v[2], (__m256d)v[3])};
    const __m256d odd[] = {_mm256_unpackhi_pd((__m256d)v[0], (__m256d)v[1]),
                           _mm256_unpackhi_pd((__m256d)v[2], (__m256d)v[3])};
    v[0] = (Vector)_mm256_permute2f128_pd(even[0], even[1], 0x20);
    v[1] = (Vector)_mm256_permute2f128_pd(odd[0], odd[1], 0x20);
    v[2] = (Vector)_mm256_permute2f128_pd(even[0], even[1], 0x31);
    v[3] = (Vector)_mm256_permute2f128_pd(odd[0], odd[1], 0x31);
  }
};

}  // namespace
}  // namespace avx2

BayesKernel<float> bayes_error_avx2() { return avx2::kernel_of<avx2::Singles>(); }
BayesKernel<double> bayes_error_avx2_double() { return avx2::kernel_of<avx2::Doubles>(); }

}  // namespace unlearn
#endif
