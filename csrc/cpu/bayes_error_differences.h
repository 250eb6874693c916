// Pairs of wide panels of bayes_error_kernel.h, evaluated from the differences of their rows, docs/maths.md (B11).
// Part of that file: included once for each instruction set, by it alone.
//
// For a pair of rows: 3D operations for the value, 3D + 6D for the gradient, in place of 2D and 2D + 4D.

namespace unlearn::UNLEARN_NAMESPACE {
namespace {

constexpr std::int64_t difference_depth = 64;  // of one chain of additions

// tile = -Σ_d (a_d - b_d)² / 2
template <class A>
UNLEARN_TARGET void gram_of_differences(const BayesCall<typename A::Scalar>& call, std::int64_t i, std::int64_t j,
                                        const Tile<A>& tile) {
  using V = typename A::Vector;
  const auto &q = *call.queries, &r = *call.references;
  const std::int64_t step = q.padded_depth * block<A>;
  const auto *a = q.plain + i * tile.blocks * step, *b = r.plain + j * tile.blocks * step;
  const V half = typename A::Scalar(-0.5) - V{};
  for (std::int64_t first = 0; first < q.depth; first += difference_depth) {
    const std::int64_t last = std::min(q.depth, first + difference_depth);
    for (std::int64_t n = 0; n < tile.blocks; ++n)
      for (std::int64_t row = 0; row < tile.rows; row += A::rows) {
        const auto* one = a + row / block<A> * step + row % block<A> + first * block<A>;
        const auto* wide = b + n * step + first * block<A>;
        V sum[A::rows][A::columns] = {};
        for (std::int64_t d = first; d < last; ++d, one += block<A>, wide += block<A>)
#pragma GCC unroll 16
          for (int k = 0; k < A::rows; ++k) {
            const V x = one[k] - V{};
#pragma GCC unroll 4
            for (int m = 0; m < A::columns; ++m) {
              const V difference = x - A::load(wide + m * A::width);
              sum[k][m] = A::fma(difference, difference, sum[k][m]);
            }
          }
        auto* to = tile.at + (n * tile.rows + row) * block<A>;
#pragma GCC unroll 16
        for (int k = 0; k < A::rows; ++k)
#pragma GCC unroll 4
          for (int m = 0; m < A::columns; ++m, to += A::width)
            A::store(to, first > 0 ? A::fma(sum[k][m], half, A::load(to)) : sum[k][m] * half);
      }
  }
}

// gradient -= Σ_j M_ij (z_i - r_j), for every row i of a panel and the rows j of another.
template <class A>
UNLEARN_TARGET void add_differences(const PackedRows<typename A::Scalar>& rows, std::int64_t panel,
                                    const PackedRows<typename A::Scalar>& others, std::int64_t other,
                                    const Tile<A>& tile, const typename A::Scalar* factors,
                                    typename A::Scalar* gradient) {
  using V = typename A::Vector;
  const std::int64_t step = rows.padded_depth * block<A>;
  const auto *z = rows.plain + panel * tile.blocks * step, *r = others.plain + other * tile.blocks * step;
  for (std::int64_t d = 0; d < rows.padded_depth; d += A::rows)
    for (std::int64_t n = 0; n < tile.rows; n += A::width) {
      const std::int64_t at = n / block<A> * step + d * block<A> + n % block<A>;
      const auto* factor = factors + n / block<A> * tile.rows * block<A> + n % block<A>;
      V own[A::rows], sum[A::rows] = {};
#pragma GCC unroll 16
      for (int k = 0; k < A::rows; ++k) own[k] = A::load(z + at + k * block<A>);
      for (std::int64_t b = 0; b < tile.blocks; ++b) {
        const auto* from = r + b * step + d * block<A>;
        for (int lane = 0; lane < block<A>; ++lane, factor += block<A>) {
          const V m = A::load(factor);
#pragma GCC unroll 16
          for (int k = 0; k < A::rows; ++k) sum[k] = A::fma(m, from[k * block<A> + lane] - own[k], sum[k]);
        }
      }
#pragma GCC unroll 16
      for (int k = 0; k < A::rows; ++k) {
        auto* to = gradient + at + k * block<A>;
        A::store(to, A::load(to) + sum[k]);
      }
    }
}

}  // namespace
}  // namespace unlearn::UNLEARN_NAMESPACE
