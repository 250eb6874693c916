// The Bayes error's kernels in portable C++ with vectors of 16 bytes, for every other processor.

#include <algorithm>
#include <utility>

#define UNLEARN_TARGET
#define UNLEARN_NAMESPACE portable
#include "bayes_error_kernel.h"

namespace unlearn {
namespace portable {
namespace {

template <typename S, typename V, typename I>
struct Plain {
  using Scalar = S;
  using Factor = S;
  using Vector = V;
  using Integers = I;
  using Factors = V;
  static constexpr int width = 16 / sizeof(S), rows = 4, columns = 2, pairs = 1;

  UNLEARN_INLINE static V load(const S* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  UNLEARN_INLINE static void store(S* p, V v) { std::memcpy(p, &v, sizeof v); }
  UNLEARN_INLINE static V fma(V a, V b, V c) { return a * b + c; }
  UNLEARN_INLINE static V load_factors(const S* p) { return load(p); }
  UNLEARN_INLINE static V broadcast(S x) { return V{} + x; }
  UNLEARN_INLINE static V multiply_add(V a, V b, V c) { return a * b + c; }
  UNLEARN_INLINE static void transpose(V (&v)[width]) {
    for (int r = 0; r < width; ++r)
      for (int c = 0; c < r; ++c) {
        const S kept = v[r][c];
        v[r][c] = v[c][r];
        v[c][r] = kept;
      }
  }
};

typedef float Singles __attribute__((vector_size(16)));
typedef std::int32_t SingleBits __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(16)));
typedef std::int64_t DoubleBits __attribute__((vector_size(16)));

}  // namespace
}  // namespace portable

BayesKernel<float> bayes_error_portable() {
  return portable::kernel_of<portable::Plain<float, portable::Singles, portable::SingleBits>>();
}

BayesKernel<double> bayes_error_portable_double() {
  return portable::kernel_of<portable::Plain<double, portable::Doubles, portable::DoubleBits>>();
}

}  // namespace unlearn
