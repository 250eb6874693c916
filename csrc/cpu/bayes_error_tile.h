// One pair of panels' tile of bayes_error_kernel.h, and what panels centred on means of their own add to it, docs/maths.md
// (B9) and (B10). Part of that file: included once for each instruction set, by it alone.

namespace unlearn::UNLEARN_NAMESPACE {
namespace {

template <class A>
constexpr int block = A::columns * A::width;

template <class A>
struct Tile {
  using S = typename A::Scalar;
  std::int64_t rows, blocks;
  S* at;          // [block of references][query][reference in block]
  S* transposed;  // [block of queries][reference][query in block]
  const S *row_bias, *column_bias;  // [rows]: of the exponents
  S* offset;                        // [padded depth], where `apart`: the queries' centre less the references'
  double* sums;                     // [rows]
  bool wide;                        // whether the tile is formed from differences, (B11)
  bool apart;                       // whether `offset` is other than 0

  Tile(const BayesCall<S>& call, std::int64_t i, std::int64_t j)
      : rows(call.panel_blocks * block<A>), blocks(call.panel_blocks), row_bias(call.queries->bias.data() + i * rows),
        column_bias(call.references->bias.data() + j * rows), wide(call.wide(i, j)),
        apart(call.local && !wide && !(call.shared() && i == j)) {
    thread_local Scratch<S> scratch;
    thread_local Scratch<double> sums_scratch;
    at = scratch.at_least(2 * rows * rows + 2 * rows + call.queries->padded_depth);
    transposed = at + rows * rows;
    offset = transposed + rows * rows;
    sums = sums_scratch.at_least(rows);
    if (wide) clear_bias();
    if (apart) measure_offset(call, i, j);
  }

  void measure_offset(const BayesCall<S>& call, std::int64_t i, std::int64_t j);

  // Differences are the whole exponent; padding keeps its own.
  void clear_bias() {
    S *of_rows = offset, *of_columns = of_rows + rows;
    const auto of_padding = [](S bias) { return bias > S(-1e29) ? S(0) : bias; };
    std::transform(row_bias, row_bias + rows, of_rows, of_padding);
    std::transform(column_bias, column_bias + rows, of_columns, of_padding);
    row_bias = of_rows;
    column_bias = of_columns;
  }
};

// bias + weight · (points · offset) for every row of a panel.
template <class A>
UNLEARN_TARGET void add_offset(const PackedRows<typename A::Scalar>& points, std::int64_t panel, const Tile<A>& tile,
                               typename A::Scalar weight, const typename A::Scalar* bias, typename A::Scalar* to) {
  using V = typename A::Vector;
  const auto* from = points.singles + panel * tile.rows * points.padded_depth;
  for (std::int64_t b = 0; b < tile.blocks; ++b, from += points.padded_depth * block<A>) {
    V sum[A::columns] = {};
    for (std::int64_t d = 0; d < points.depth; ++d)
#pragma GCC unroll 4
      for (int n = 0; n < A::columns; ++n)
        sum[n] = A::fma(A::load(from + d * block<A> + n * A::width), V{} + tile.offset[d], sum[n]);
    for (int n = 0; n < A::columns; ++n) {
      const std::int64_t row = b * block<A> + n * A::width;
      A::store(to + row, A::fma(sum[n], V{} + weight, A::load(bias + row)));
    }
  }
}

// (B9): the terms of rows and of columns.
template <class A>
void Tile<A>::measure_offset(const BayesCall<S>& call, std::int64_t i, std::int64_t j) {
  const auto &q = *call.queries, &r = *call.references;
  double square = 0;
  std::fill_n(offset, q.padded_depth, S(0));
  for (std::int64_t d = 0; d < q.depth; ++d) {
    offset[d] = static_cast<S>(q.centre[i * q.depth + d] - r.centre[j * r.depth + d]);
    square += static_cast<double>(offset[d]) * static_cast<double>(offset[d]);
  }
  S *of_rows = offset + q.padded_depth, *of_columns = of_rows + rows;
  add_offset<A>(q, i, *this, -call.scale, row_bias, of_rows);
  add_offset<A>(r, j, *this, call.scale, column_bias, of_columns);
  const S constant = static_cast<S>(-square * static_cast<double>(call.scale) / 2);
  for (std::int64_t row = 0; row < rows; ++row) of_rows[row] += constant;
  row_bias = of_rows;
  column_bias = of_columns;
}

template <class A>
UNLEARN_TARGET void add_sums(const typename A::Scalar* tile, std::int64_t rows, double* sums) {
  for (std::int64_t first = 0; first < rows; first += block<A>, tile += rows * block<A>) {
    typename A::Vector sum[A::columns] = {};
    for (std::int64_t row = 0; row < rows; ++row)
#pragma GCC unroll 4
      for (int n = 0; n < A::columns; ++n) sum[n] += A::load(tile + row * block<A> + n * A::width);
    for (int lane = 0; lane < block<A>; ++lane)
      sums[first + lane] += static_cast<double>(sum[lane / A::width][lane % A::width]);
  }
}

// The sums down the tile's columns, to `sums`; with an offset also gradient += sign · sums ⊗ offset, (B10).
template <class A>
UNLEARN_TARGET void add_sums(const typename A::Scalar* values, const Tile<A>& tile, double* sums, double sign,
                             std::int64_t padded_depth, typename A::Scalar* gradient) {
  using V = typename A::Vector;
  if (!tile.apart) return add_sums<A>(values, tile.rows, sums);
  std::fill_n(tile.sums, tile.rows, 0.0);
  add_sums<A>(values, tile.rows, tile.sums);
  for (std::int64_t row = 0; row < tile.rows; ++row) sums[row] += tile.sums[row];
  for (std::int64_t b = 0; b < tile.blocks; ++b, gradient += padded_depth * block<A>) {
    alignas(64) typename A::Scalar weight[block<A>];
    for (int lane = 0; lane < block<A>; ++lane)
      weight[lane] = static_cast<typename A::Scalar>(sign * tile.sums[b * block<A> + lane]);
    for (std::int64_t d = 0; d < padded_depth; ++d)
#pragma GCC unroll 4
      for (int n = 0; n < A::columns; ++n) {
        auto* at = gradient + d * block<A> + n * A::width;
        A::store(at, A::fma(A::load(weight + n * A::width), V{} + tile.offset[d], A::load(at)));
      }
  }
}

}  // namespace
}  // namespace unlearn::UNLEARN_NAMESPACE
