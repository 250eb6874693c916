// The cosine transform (S1), its adjoint and the fourth kind, docs/maths.md (S5) to (S8), of as many columns as a vector
// V has lanes. Part of classwise_spectrum_kernel.h: included once for each instruction set, by it alone.
//
//   in, out   S, n vectors each, `is` and `os` elements apart; `in` may be `out`
//   space     S, work space for 2n vectors
//
// Each output is one chain of a product and fused multiply-adds, in the order of ops/cosine_transform.py, whichever of
// the two ways computes it: lengths up to 8 in registers, larger ones halved in memory that stays in the first cache.

#include "cosine_plan.h"
#include "cosine_registers.h"

namespace unlearn {
namespace UNLEARN_NAMESPACE {

enum class Kind { second, third, fourth };

template <class V, Kind KIND, int N>
UNLEARN_TARGET void in_registers(const CosinePlan<typename V::Scalar>& plan, int level, const typename V::Scalar* in,
                                 std::int64_t is, typename V::Scalar* out, std::int64_t os) {
  using Plan = CosinePlan<typename V::Scalar>;
  V x[N], y[N];
  each<N>([&](auto i) UNLEARN_LAMBDA { x[i] = V::load(in + i * is); });
  if constexpr (KIND == Kind::second) InRegisters<V, Plan, N>::second(plan, level, x, y);
  if constexpr (KIND == Kind::third) InRegisters<V, Plan, N>::third(plan, level, x, y);
  if constexpr (KIND == Kind::fourth) InRegisters<V, Plan, N>::fourth(plan, level, x, y);
  each<N>([&](auto i) UNLEARN_LAMBDA { y[i].store(out + i * os); });
}

// `rows` sums of `terms` products, in memory; `in` must not be `out`.
template <class V, int ROWS>
UNLEARN_INLINE void some_rows(const typename V::Scalar* matrix, std::int64_t down, std::int64_t across,
                              std::int64_t terms, const typename V::Scalar* in, std::int64_t is,
                              typename V::Scalar* out, std::int64_t os) {
  V total[ROWS];
  const V first = V::load(in);
  each<ROWS>([&](auto k) UNLEARN_LAMBDA { total[k] = V::mul(V::set1(matrix[k * down]), first); });
  for (std::int64_t i = 1; i < terms; ++i) {
    const V x = V::load(in + i * is);
    const auto* column = matrix + i * across;
    each<ROWS>([&](auto k) UNLEARN_LAMBDA { total[k] = V::fma(V::set1(column[k * down]), x, total[k]); });
  }
  each<ROWS>([&](auto k) UNLEARN_LAMBDA { total[k].store(out + k * os); });
}

template <class V>
UNLEARN_TARGET void product_in_memory(const typename V::Scalar* matrix, std::int64_t down, std::int64_t across,
                                      std::int64_t rows, std::int64_t terms, const typename V::Scalar* in,
                                      std::int64_t is, typename V::Scalar* out, std::int64_t os) {
  std::int64_t k = 0;
  for (; k + 8 <= rows; k += 8) some_rows<V, 8>(matrix + k * down, down, across, terms, in, is, out + k * os, os);
  for (; k + 4 <= rows; k += 4) some_rows<V, 4>(matrix + k * down, down, across, terms, in, is, out + k * os, os);
  for (; k < rows; ++k) some_rows<V, 1>(matrix + k * down, down, across, terms, in, is, out + k * os, os);
}

template <class V>
struct Cosine {
  using S = typename V::Scalar;
  static constexpr std::int64_t w = V::width;
  const CosinePlan<S>& plan;

  template <Kind KIND>
  UNLEARN_TARGET void run(int level, std::int64_t n, const S* in, std::int64_t is, S* out, std::int64_t os,
                          S* space) const {
    switch (n) {
      case 1: return in_registers<V, KIND, 1>(plan, level, in, is, out, os);
      case 2: return in_registers<V, KIND, 2>(plan, level, in, is, out, os);
      case 3: return in_registers<V, KIND, 3>(plan, level, in, is, out, os);
      case 4: return in_registers<V, KIND, 4>(plan, level, in, is, out, os);
      case 5: return in_registers<V, KIND, 5>(plan, level, in, is, out, os);
      case 6: return in_registers<V, KIND, 6>(plan, level, in, is, out, os);
      case 7: return in_registers<V, KIND, 7>(plan, level, in, is, out, os);
      case 8: return in_registers<V, KIND, 8>(plan, level, in, is, out, os);
    }
    if constexpr (KIND == Kind::second) second(level, n, in, is, out, os, space);
    if constexpr (KIND == Kind::third) third(level, n, in, is, out, os, space);
    if constexpr (KIND == Kind::fourth) fourth(level, n, in, is, out, os, space);
  }

 private:
  UNLEARN_TARGET void second(int level, std::int64_t n, const S* in, std::int64_t is, S* out, std::int64_t os,
                             S* space) const {
    const std::int64_t half = n / 2, sums = n - half;
    for (std::int64_t i = 0; i < half; ++i) {
      const V x = V::load(in + i * is), opposite = V::load(in + (n - 1 - i) * is);
      V::add(x, opposite).store(space + i * w);
      V::sub(x, opposite).store(space + (sums + i) * w);
    }
    S* differences = space + sums * w;
    if (n % 2) {
      V::load(in + half * is).store(space + half * w);
      product_in_memory<V>(plan.even_rows.data(), sums, 1, sums, sums, space, w, out, 2 * os);
      product_in_memory<V>(plan.odd_rows.data(), half, 1, half, half, differences, w, out + os, 2 * os);
    } else {
      run<Kind::second>(level + 1, half, space, w, out, 2 * os, space + n * w);
      run<Kind::fourth>(level + 1, half, differences, w, out + os, 2 * os, space + n * w);
    }
  }

  UNLEARN_TARGET void third(int level, std::int64_t n, const S* in, std::int64_t is, S* out, std::int64_t os,
                            S* space) const {
    const std::int64_t half = n / 2, sums = n - half;
    S* differences = space + sums * w;
    if (n % 2) {
      product_in_memory<V>(plan.even_rows.data(), 1, sums, sums, sums, in, 2 * is, space, w);
      product_in_memory<V>(plan.odd_rows.data(), 1, half, half, half, in + is, 2 * is, differences, w);
      V::load(space + half * w).store(out + half * os);
    } else {
      run<Kind::third>(level + 1, half, in, 2 * is, space, w, space + n * w);
      run<Kind::fourth>(level + 1, half, in + is, 2 * is, differences, w, space + n * w);
    }
    for (std::int64_t i = 0; i < half; ++i) {
      const V e = V::load(space + i * w), o = V::load(differences + i * w);
      V::add(e, o).store(out + i * os);
      V::sub(e, o).store(out + (n - 1 - i) * os);
    }
  }

  UNLEARN_TARGET void fourth(int level, std::int64_t n, const S* in, std::int64_t is, S* out, std::int64_t os,
                             S* space) const {
    if (n % 2) return product_in_memory<V>(plan.fourth.data(), n, 1, n, n, in, is, out, os);
    const std::int64_t half = n / 2;
    const S* turn = plan.turns[level].data();
    S* b = space + half * w;
    for (std::int64_t i = 0; i < half; ++i, turn += 4) {
      const V x = V::load(in + i * is), opposite = V::load(in + (n - 1 - i) * is);
      V::fma(V::set1(turn[1]), x, V::mul(V::set1(turn[0]), opposite)).store(space + i * w);
      V::fma(V::set1(turn[3]), x, V::mul(V::set1(turn[2]), opposite)).store(b + i * w);
    }
    run<Kind::second>(level + 1, half, space, w, out, 2 * os, space + n * w);
    run<Kind::second>(level + 1, half, b, w, out + (n - 1) * os, -2 * os, space + n * w);
    for (std::int64_t k = 1; k < half; ++k) {
      S *before = out + (2 * k - 1) * os, *at = out + 2 * k * os;
      const V p = V::load(at), q = V::load(before);
      V::add(p, q).store(before);
      V::sub(p, q).store(at);
    }
  }
};

}  // namespace UNLEARN_NAMESPACE
}  // namespace unlearn
