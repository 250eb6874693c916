// The Bayes error's kernels for processors with AVX512_BF16: products of bfloat16 pairs, added in float32.

#if defined(__x86_64__)
#include <algorithm>

#define UNLEARN_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")))
#define UNLEARN_NAMESPACE avx512bf16
#include "bayes_error_kernel.h"

#include "bayes_error_avx512.h"

namespace unlearn {
namespace avx512bf16 {
namespace {

struct Pairs : Singles {
  using Factor = std::uint32_t;
  typedef std::uint32_t Factors __attribute__((vector_size(64)));
  static constexpr int pairs = 2;

  UNLEARN_INLINE static Factors load_factors(const std::uint32_t* p) { return (Factors)_mm512_loadu_si512(p); }
  UNLEARN_INLINE static void store_factors(std::uint32_t* p, Integers v) { _mm512_storeu_si512(p, (__m512i)v); }
  UNLEARN_INLINE static Factors broadcast(std::uint32_t x) { return (Factors)_mm512_set1_epi32(static_cast<int>(x)); }
  UNLEARN_INLINE static Vector multiply_add(Factors a, Factors b, Vector c) {
    return (Vector)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
  }
};

}  // namespace
}  // namespace avx512bf16

BayesKernel<float> bayes_error_avx512bf16() { return avx512bf16::kernel_of<avx512bf16::Pairs>(); }

}  // namespace unlearn
#endif
