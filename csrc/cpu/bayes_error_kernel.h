// One pair of panels of the Bayes error's surrogate and its gradient, docs/maths.md (B1) to (B8), for any vector type.
// Panel i of a call's queries and panel j of its references (bayes_error.h), each of R rows of D features:
//   gram_factors      S [blocks, D, block]       points as the first product's factors; bfloat16 pairs in bf16
//   product_factors   S [blocks, D', block]      and as the second's; D' is D padded to whole registers
//   bias, label       S [rows]                   of the exponent; class, −1 in padding
//   winner, weight_*  S [rows]                   gradient only: c_i and both values of a_ij, (B4)
//   mass              double [rows, classes]     written by `statistics`
//   gradient, sums    S [blocks, D', block], double [rows]   added to by `gradient`: M y and M 1
// Threads take pairs of panels that share no panel, so that what is added to is each thread's own.
//
// A tile holds the panel's pairs as [block of references][query][reference in block], and fits in the second-level
// cache with both panels. The products run in registers of Arithmetic::rows × Arithmetic::columns vectors: one
// factor broadcast, the other in vectors; everything else is a few vector operations for each pair.
// For a pair of rows: 2D operations for the value, 2D + 4D for the gradient, which forms the tile anew.
// Memory for a pair of panels of R rows: 2RD numbers read, for the gradient 2RD read and written besides.

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "bayes_error.h"
#include "bfloat16.h"
#include "glibc.h"

#ifndef UNLEARN_TARGET
#error "define UNLEARN_TARGET and UNLEARN_NAMESPACE before including bayes_error_kernel.h"
#endif

#define UNLEARN_INLINE UNLEARN_TARGET __attribute__((always_inline)) inline

#include "bayes_error_tile.h"
#include "bayes_error_differences.h"

namespace unlearn::UNLEARN_NAMESPACE {
namespace {

constexpr std::int64_t gram_depth = 128;  // of one chain of additions: short chains, summed, round less

// c[r][·] (+)= Σ over blocks, k of a[r·row_step + k·k_step] · b[k][·], for A::rows rows of one block of columns.
template <class A, int row_step, int k_step>
UNLEARN_TARGET void multiply(std::int64_t blocks, std::int64_t length, const typename A::Factor* a, std::int64_t jump,
                             const typename A::Factor* b, typename A::Scalar* c, bool add) {
  typename A::Vector sum[A::rows][A::columns] = {};
  for (std::int64_t i = 0; i < blocks; ++i, a += jump) {
    for (std::int64_t k = 0; k < length; ++k, b += block<A>) {
      typename A::Factors wide[A::columns];
#pragma GCC unroll 4
      for (int n = 0; n < A::columns; ++n) wide[n] = A::load_factors(b + n * A::width);
#pragma GCC unroll 16
      for (int r = 0; r < A::rows; ++r) {
        const typename A::Factors one = A::broadcast(a[r * row_step + k * k_step]);
#pragma GCC unroll 4
        for (int n = 0; n < A::columns; ++n) sum[r][n] = A::multiply_add(one, wide[n], sum[r][n]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < A::rows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < A::columns; ++n) {
      typename A::Scalar* at = c + r * block<A> + n * A::width;
      A::store(at, add ? A::load(at) + sum[r][n] : sum[r][n]);
    }
}

// What e^x needs of a type. Subtracting n of the shortened ln 2 is exact, and then the rest of it.
template <typename S>
struct ExponentialOf;

template <>
struct ExponentialOf<float> {
  static constexpr float lowest = -87.3f, shift = 0x1.8p23f, per_bit = 0x1.715476p0f;
  static constexpr float bit = 0x1.62e4p-1f, rest = 0x1.7f7d1cp-20f;
  static constexpr int mantissa = 23, degree = 7;
};

template <>
struct ExponentialOf<double> {
  static constexpr double lowest = -708.39, shift = 0x1.8p52, per_bit = 0x1.71547652b82fep0;
  static constexpr double bit = 0x1.62e42feep-1, rest = 0x1.a39ef35793c76p-33;
  static constexpr int mantissa = 52, degree = 13;
};

// e^x for x ≤ 0, to 1e-7 relative for float and 4e-16 for double; below the smallest normal number 0.
template <class A>
UNLEARN_INLINE typename A::Vector exponential(typename A::Vector x) {
  using V = typename A::Vector;
  using I = typename A::Integers;
  using S = typename A::Scalar;
  using Of = ExponentialOf<S>;
  const V zero{}, shift = zero + Of::shift;  // adding it rounds to an integer in the low bits
  const V below = x < Of::lowest ? zero + S(1) : zero;
  x = x < Of::lowest ? zero : x;
  const V shifted = A::fma(x, zero + Of::per_bit, shift), n = shifted - shift;
  const V r = A::fma(n, zero - Of::rest, A::fma(n, zero - Of::bit, x));
  constexpr double factorials[] = {1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600, 6227020800};
  V p = zero + static_cast<S>(1 / factorials[Of::degree]);
#pragma GCC unroll 13
  for (int c = Of::degree - 1; c >= 0; --c) p = A::fma(p, r, zero + static_cast<S>(1 / factorials[c]));
  const V value = (V)((I)p + (((I)shifted - (I)shift) << Of::mantissa));
  return below != S(0) ? zero : value;
}

// K for the statistics, the derivative's factor K or K(1 − K) for the gradient, from the exponent.
template <class A, bool rbf, bool derivative>
UNLEARN_INLINE typename A::Vector similarity(typename A::Vector x) {
  using V = typename A::Vector;
  const V zero{}, one = zero + 1;
  if (rbf) return exponential<A>(x < 0 ? x : zero);
  const V e = exponential<A>(x < 0 ? x : -x);
  if (derivative) return e / ((one + e) * (one + e));
  return (x < 0 ? e : one) / (one + e);
}

template <class A>
UNLEARN_INLINE typename A::Vector to_bfloat16(typename A::Vector x) {
  if constexpr (std::is_same_v<typename A::Scalar, double>) {
    return x;
  } else {
    auto bits = (typename A::Integers)x;
    round_to_bfloat16(bits);
    return (typename A::Vector)bits;
  }
}

template <class A>
UNLEARN_TARGET void gram(const BayesCall<typename A::Scalar>& call, std::int64_t i, std::int64_t j, const Tile<A>& tile) {
  if (tile.wide) return gram_of_differences<A>(call, i, j, tile);
  const auto &q = *call.queries, &r = *call.references;
  const std::int64_t length = (q.depth + A::pairs - 1) / A::pairs;
  const auto* a = static_cast<const typename A::Factor*>(q.gram_factors) + i * tile.blocks * q.gram_block;
  const auto* b = static_cast<const typename A::Factor*>(r.gram_factors) + j * tile.blocks * r.gram_block;
  for (std::int64_t k = 0; k == 0 || k < length; k += gram_depth)
    for (std::int64_t n = 0; n < tile.blocks; ++n)
      for (std::int64_t row = 0; row < tile.rows; row += A::rows)
        multiply<A, 1, block<A>>(1, std::min(gram_depth, length - k),
                                 a + row / block<A> * q.gram_block + k * block<A> + row % block<A>, 0,
                                 b + n * r.gram_block + k * block<A>, tile.at + (n * tile.rows + row) * block<A>, k > 0);
}

// No row counts for itself.
template <class A>
void clear_own(const BayesCall<typename A::Scalar>& call, std::int64_t i, std::int64_t j, const Tile<A>& tile) {
  for (std::int64_t row = 0; row < tile.rows; ++row) {
    const std::int64_t at = call.queries->own[i * tile.rows + row] - j * tile.rows;
    if (at >= 0 && at < tile.rows)
      tile.at[(at / block<A> * tile.rows + row) * block<A> + at % block<A>] = 0;
  }
}

template <class A, bool rbf>
UNLEARN_TARGET void form_kernel(const BayesCall<typename A::Scalar>& call, std::int64_t i, std::int64_t j,
                                const Tile<A>& tile) {
  using V = typename A::Vector;
  const V zero{}, scale = zero + call.scale;
  const auto *row_bias = tile.row_bias, *bias = tile.column_bias;
  for (std::int64_t n = 0; n < tile.rows; n += A::width) {
    const V column_bias = A::load(bias + n);
    auto* at = tile.at + n / block<A> * tile.rows * block<A> + n % block<A>;
    for (std::int64_t row = 0; row < tile.rows; ++row, at += block<A>)
      A::store(at, similarity<A, rbf, false>(A::fma(A::load(at), scale, zero + row_bias[row]) + column_bias));
  }
  clear_own<A>(call, i, j, tile);
}

// S of (B5), or M of (B7) where the references are the queries. Returns whether anything differs from 0.
template <class A, bool rbf, bool shared>
UNLEARN_TARGET bool form_factors(const BayesCall<typename A::Scalar>& call, std::int64_t i, std::int64_t j,
                                 const Tile<A>& tile) {
  using V = typename A::Vector;
  const auto &q = *call.queries, &r = *call.references;
  const V zero{}, scale = zero + call.scale;
  const std::int64_t first = i * tile.rows;
  V largest = zero;
  for (std::int64_t n = 0; n < tile.rows; n += A::width) {
    const std::int64_t column = j * tile.rows + n;
    const V bias = A::load(tile.column_bias + n), label = A::load(&r.label[column]);
    V winner = zero, won = zero, lost = zero;
    if (shared) {
      winner = A::load(&r.winner[column]);
      won = A::load(&r.weight_won[column]);
      lost = A::load(&r.weight_lost[column]);
    }
    auto* at = tile.at + n / block<A> * tile.rows * block<A> + n % block<A>;
    for (std::int64_t row = 0; row < tile.rows; ++row, at += block<A>) {
      const std::int64_t query = first + row;
      const V k = similarity<A, rbf, true>(A::fma(A::load(at), scale, zero + tile.row_bias[row]) + bias);
      V weight = label == q.winner[query] ? zero + q.weight_won[query] : zero + q.weight_lost[query];
      if (shared) weight += winner == r.label[query] ? won : lost;
      V m = k * weight;
      if (call.rounded) m = to_bfloat16<A>(m);
      A::store(at, m);
      m = m < 0 ? -m : m;
      largest = m > largest ? m : largest;
    }
  }
  clear_own<A>(call, i, j, tile);
  bool any = false;
  for (int lane = 0; lane < A::width; ++lane) any = any || largest[lane] > 0;
  return any;
}

template <class A>
UNLEARN_TARGET void transpose(const Tile<A>& tile) {
  using V = typename A::Vector;
  for (std::int64_t row = 0; row < tile.rows; row += A::width)
    for (std::int64_t column = 0; column < tile.rows; column += A::width) {
      const auto* from = tile.at + (column / block<A> * tile.rows + row) * block<A> + column % block<A>;
      auto* to = tile.transposed + (row / block<A> * tile.rows + column) * block<A> + row % block<A>;
      V v[A::width];
#pragma GCC unroll 16
      for (int r = 0; r < A::width; ++r) v[r] = A::load(from + r * block<A>);
      A::transpose(v);
#pragma GCC unroll 16
      for (int r = 0; r < A::width; ++r) A::store(to + r * block<A>, v[r]);
    }
}

// Adds the sums down the tile's columns to the mass of the columns' rows, class by class of the rows summed over.
template <class A>
UNLEARN_TARGET void add_masses(const typename A::Scalar* tile, std::int64_t rows, const typename A::Scalar* label,
                               double* mass, std::int64_t classes) {
  using V = typename A::Vector;
  alignas(64) typename A::Scalar total[block<A>];
  for (std::int64_t first = 0; first < rows; first += block<A>, tile += rows * block<A>)
    for (std::int64_t row = 0; row < rows && label[row] >= 0;) {
      const auto of_class = label[row];
      V sum[A::columns] = {};
      for (; row < rows && label[row] == of_class; ++row)
#pragma GCC unroll 4
        for (int n = 0; n < A::columns; ++n) sum[n] += A::load(tile + row * block<A> + n * A::width);
      for (int n = 0; n < A::columns; ++n) A::store(total + n * A::width, sum[n]);
      for (int lane = 0; lane < block<A>; ++lane)
        mass[(first + lane) * classes + static_cast<std::int64_t>(of_class)] += static_cast<double>(total[lane]);
    }
}

// The factors of the second product, pairs of rows in one unit, in place.
template <class A>
UNLEARN_TARGET const typename A::Factor* as_factors(typename A::Scalar* tile, std::int64_t count) {
  if constexpr (A::pairs == 1) {
    return tile;
  } else {
    using I = typename A::Integers;
    auto* to = reinterpret_cast<typename A::Factor*>(tile);
    for (std::int64_t pair = 0; pair < count; pair += 2 * block<A>)
#pragma GCC unroll 4
      for (int n = 0; n < block<A>; n += A::width) {
        const I low = (I)A::load(tile + pair + n), high = (I)A::load(tile + pair + block<A> + n);
        A::store_factors(to + pair / 2 + n, ((low >> 16) & 0xffff) | (high & ~0xffff));
      }
    return to;
  }
}

// gradient += points · tile, for every block of columns of the tile and every row of the gradient.
template <class A>
UNLEARN_TARGET void add_product(const PackedRows<typename A::Scalar>& points, std::int64_t panel, const Tile<A>& tile,
                                const typename A::Factor* factors, typename A::Scalar* gradient) {
  constexpr int in_block = block<A> / A::pairs;
  const auto* a = static_cast<const typename A::Factor*>(points.product_factors) +
                  panel * tile.blocks * points.product_block;
  for (std::int64_t d = 0; d < points.padded_depth; d += A::rows)
    for (std::int64_t n = 0; n < tile.blocks; ++n)
      multiply<A, in_block, 1>(tile.blocks, in_block, a + d * in_block, points.product_block,
                               factors + n * tile.blocks * in_block * block<A>,
                               gradient + (n * points.padded_depth + d) * block<A>, true);
}

template <class A>
UNLEARN_TARGET void statistics(const BayesCall<typename A::Scalar>& call, std::int64_t i, std::int64_t j) {
  const Tile<A> tile(call, i, j);
  auto &q = *call.queries, &r = *call.references;
  gram<A>(call, i, j, tile);
  call.rbf ? form_kernel<A, true>(call, i, j, tile) : form_kernel<A, false>(call, i, j, tile);
  transpose<A>(tile);
  add_masses<A>(tile.transposed, tile.rows, &r.label[j * tile.rows], &q.mass[i * tile.rows * call.classes], call.classes);
  if (call.shared() && i != j)
    add_masses<A>(tile.at, tile.rows, &q.label[i * tile.rows], &r.mass[j * tile.rows * call.classes], call.classes);
}

template <class A>
UNLEARN_TARGET void gradient(const BayesCall<typename A::Scalar>& call, std::int64_t i, std::int64_t j) {
  const Tile<A> tile(call, i, j);
  auto &q = *call.queries, &r = *call.references;
  gram<A>(call, i, j, tile);
  const auto form = call.shared() ? call.rbf ? form_factors<A, true, true> : form_factors<A, false, true>
                                  : call.rbf ? form_factors<A, true, false> : form_factors<A, false, false>;
  if (!form(call, i, j, tile)) return;
  transpose<A>(tile);
  const std::int64_t size = tile.rows * tile.rows, part = tile.rows * q.padded_depth;
  auto *of_queries = q.gradient.at_least(0) + i * part, *of_references = r.gradient.at_least(0) + j * part;
  if (tile.wide) {
    add_differences<A>(q, i, r, j, tile, tile.transposed, of_queries);
    if (!call.shared() || i != j) add_differences<A>(r, j, q, i, tile, tile.at, of_references);
    return;
  }
  add_sums<A>(tile.transposed, tile, &q.sums[i * tile.rows], -1, q.padded_depth, of_queries);
  add_product<A>(r, j, tile, as_factors<A>(tile.transposed, size), of_queries);
  if (call.shared() && i == j) return;
  add_sums<A>(tile.at, tile, &r.sums[j * tile.rows], 1, q.padded_depth, of_references);
  add_product<A>(q, i, tile, as_factors<A>(tile.at, size), of_references);
}

template <class A>
BayesKernel<typename A::Scalar> kernel_of() {
  static_assert(block<A> % A::rows == 0 && block<A> % A::pairs == 0);
  return {block<A>, A::rows, A::pairs, statistics<A>, gradient<A>};
}

}  // namespace
}  // namespace unlearn::UNLEARN_NAMESPACE
