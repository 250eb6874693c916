// The Bayes error's kernels for processors with AVX-512 (F, BW, VL).

#if defined(__x86_64__)
#include <algorithm>

#define UNLEARN_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma")))
#define UNLEARN_NAMESPACE avx512
#include "bayes_error_kernel.h"

#include "bayes_error_avx512.h"

namespace unlearn {
namespace avx512 {
namespace {

struct Doubles {
  using Scalar = double;
  using Factor = double;
  typedef double Vector __attribute__((vector_size(64)));
  typedef std::int64_t Integers __attribute__((vector_size(64)));
  using Factors = Vector;
  static constexpr int width = 8, rows = 8, columns = 3, pairs = 1;

  UNLEARN_INLINE static Vector load(const double* p) { return (Vector)_mm512_loadu_pd(p); }
  UNLEARN_INLINE static void store(double* p, Vector v) { _mm512_storeu_pd(p, (__m512d)v); }
  UNLEARN_INLINE static Vector fma(Vector a, Vector b, Vector c) {
    return (Vector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
  }
  UNLEARN_INLINE static Factors load_factors(const double* p) { return load(p); }
  UNLEARN_INLINE static Factors broadcast(double x) { return (Vector)_mm512_set1_pd(x); }
  UNLEARN_INLINE static Vector multiply_add(Factors a, Factors b, Vector c) { return fma(a, b, c); }

  // As for Singles.
  UNLEARN_INLINE static void transpose(Vector (&v)[8]) {
#pragma GCC unroll 3
    for (int step = 1; step < 8; step *= 2) {
      const __m512i lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
      const __mmask8 high = _mm512_test_epi64_mask(lane, _mm512_set1_epi64(step));
      const __m512i second = _mm512_add_epi64(lane, _mm512_set1_epi64(8 - step));
      const __m512i third = _mm512_add_epi64(lane, _mm512_set1_epi64(step));
      const __m512i above = _mm512_mask_mov_epi64(lane, high, second);
      const __m512i below = _mm512_mask_mov_epi64(third, high, _mm512_add_epi64(lane, _mm512_set1_epi64(8)));
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) {
        if (r & step) continue;
        const __m512d a = (__m512d)v[r], b = (__m512d)v[r + step];
        v[r] = (Vector)_mm512_permutex2var_pd(a, above, b);
        v[r + step] = (Vector)_mm512_permutex2var_pd(a, below, b);
      }
    }
  }
};

}  // namespace
}  // namespace avx512

BayesKernel<float> bayes_error_avx512() { return avx512::kernel_of<avx512::Singles>(); }
BayesKernel<double> bayes_error_avx512_double() { return avx512::kernel_of<avx512::Doubles>(); }

}  // namespace unlearn
#endif
