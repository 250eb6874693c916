// The cosine transform (S1), its adjoint and the fourth kind, docs/maths.md (S5) to (S8), of N numbers in registers, for
// kernels of the CPU and of CUDA. V is a vector of numbers, each of a transform of its own.
//
// Included with UNLEARN_NAMESPACE, UNLEARN_INLINE and UNLEARN_LAMBDA naming where and how it is compiled. A Plan has the
// coefficients as cosine_plan.h has them, `level` halvings below its length.

#include <cstddef>
#include <utility>

namespace unlearn {
namespace UNLEARN_NAMESPACE {

template <int I>
struct Constant {  // std::integral_constant, whose conversion CUDA does not take for its own
  UNLEARN_INLINE constexpr operator int() const { return I; }
};

template <std::size_t... I, class F>
UNLEARN_INLINE void each_of(std::index_sequence<I...>, [[maybe_unused]] F f) {
  (f(Constant<static_cast<int>(I)>{}), ...);
}

// f(0) to f(N - 1), each with a constant, so that arrays indexed by it stay in registers.
template <int N, class F>
UNLEARN_INLINE void each(F f) {
  each_of(std::make_index_sequence<N>{}, f);
}

// y[k] = Σ_i matrix[k · down + i · across] · x[i]
template <class V, int ROWS, int TERMS>
UNLEARN_INLINE void product(const typename V::Scalar* matrix, int down, int across, const V* x, V* y) {
  each<ROWS>([&](auto k) UNLEARN_LAMBDA {
    V total = V::mul(V::set1(matrix[k * down]), x[0]);
    each<TERMS - 1>([&](auto i) UNLEARN_LAMBDA {
      total = V::fma(V::set1(matrix[k * down + (i + 1) * across]), x[i + 1], total);
    });
    y[k] = total;
  });
}

template <class V, class Plan, int N>
struct InRegisters {
  using S = typename V::Scalar;
  static constexpr int half = N / 2, sums = (N + 1) / 2;
  using Half = InRegisters<V, Plan, half>;

  UNLEARN_INLINE static void second(const Plan& plan, int level, const V* x, V* y) {
    if constexpr (N == 1) {
      y[0] = x[0];
    } else {
      V e[sums], o[half], even[sums], odd[half];
      each<half>([&](auto i) UNLEARN_LAMBDA {
        e[i] = V::add(x[i], x[N - 1 - i]);
        o[i] = V::sub(x[i], x[N - 1 - i]);
      });
      if constexpr (N % 2) {
        e[half] = x[half];
        product<V, sums, sums>(plan.even_row(), sums, 1, e, even);
        product<V, half, half>(plan.odd_row(), half, 1, o, odd);
      } else {
        Half::second(plan, level + 1, e, even);
        Half::fourth(plan, level + 1, o, odd);
      }
      each<sums>([&](auto k) UNLEARN_LAMBDA { y[2 * k] = even[k]; });
      each<half>([&](auto k) UNLEARN_LAMBDA { y[2 * k + 1] = odd[k]; });
    }
  }

  UNLEARN_INLINE static void third(const Plan& plan, int level, const V* x, V* y) {
    if constexpr (N == 1) {
      y[0] = x[0];
    } else {
      V e[sums], o[half], even[sums], odd[half];
      each<sums>([&](auto k) UNLEARN_LAMBDA { even[k] = x[2 * k]; });
      each<half>([&](auto k) UNLEARN_LAMBDA { odd[k] = x[2 * k + 1]; });
      if constexpr (N % 2) {
        product<V, sums, sums>(plan.even_row(), 1, sums, even, e);
        product<V, half, half>(plan.odd_row(), 1, half, odd, o);
        y[half] = e[half];
      } else {
        Half::third(plan, level + 1, even, e);
        Half::fourth(plan, level + 1, odd, o);
      }
      each<half>([&](auto i) UNLEARN_LAMBDA {
        y[i] = V::add(e[i], o[i]);
        y[N - 1 - i] = V::sub(e[i], o[i]);
      });
    }
  }

  UNLEARN_INLINE static void fourth(const Plan& plan, int level, const V* x, V* y) {
    if constexpr (N % 2) {
      product<V, N, N>(plan.fourth_row(), N, 1, x, y);
    } else {
      V a[half], b[half], p[half], q[half];
      const S* turn = plan.turn(level);
      each<half>([&](auto i) UNLEARN_LAMBDA {
        a[i] = V::fma(V::set1(turn[4 * i + 1]), x[i], V::mul(V::set1(turn[4 * i]), x[N - 1 - i]));
        b[i] = V::fma(V::set1(turn[4 * i + 3]), x[i], V::mul(V::set1(turn[4 * i + 2]), x[N - 1 - i]));
      });
      Half::second(plan, level + 1, a, p);
      Half::second(plan, level + 1, b, q);
      y[0] = p[0];
      each<half - 1>([&](auto k) UNLEARN_LAMBDA {
        y[2 * k + 1] = V::add(p[k + 1], q[half - 1 - k]);
        y[2 * k + 2] = V::sub(p[k + 1], q[half - 1 - k]);
      });
      y[N - 1] = q[0];
    }
  }
};

}  // namespace UNLEARN_NAMESPACE
}  // namespace unlearn
