// torch.ops.unlearn.bayes_ascent_step on the CPU: docs/maths.md (B1) to (B3), (A1), then pgd_step.
//   x, origin   S [N, ...]   float32 or float64; x in any layout, read as rows S [N, D]
//   labels      int64 [N]    in [0, classes)
// to the next x, laid out like x, and the error S [N] before the step.
//
// For N rows of D features the products are the machine's: N²D/2 (1 + 1/blocks) multiply-adds for the upper triangle
// of X Xᵀ, in blocks of rows, and N²D for L X. Between them rows are shared out among threads. The matrix is N×N, so
// that batches of more than `most_rows` go through bayes_error, which keeps no such matrix, and its backward; so do
// samples many bandwidths apart, whose differences bayes_error takes panel by panel.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "arguments.h"
#include "bayes_error.h"
#include "glibc.h"
#include "share_out.h"

namespace unlearn {
namespace {

constexpr const char* op = "bayes_ascent_step: ";
constexpr double smallest_mass = 1e-8;
constexpr std::int64_t most_rows = 4096, blocks = 4, worth_a_thread = 1 << 15;

template <typename S>
void refuse_infinite(const S* rows, std::int64_t count, std::int64_t depth) {
  for (std::int64_t n = 0; n < count; ++n) {
    double square = 0;
    for (std::int64_t d = 0; d < depth; ++d) square += static_cast<double>(rows[n * depth + d]) * rows[n * depth + d];
    check(std::isfinite(square), op, "the squared length of x[", n, "] is ", square, ", but must be finite");
  }
}

// The rows less their mean, times a power of two that keeps squares in range, and half of their squared lengths.
template <typename S>
Tensor centred(const Tensor& rows, double power, std::vector<double>& half_squares) {
  const std::int64_t count = rows.size(0), depth = rows.size(1);
  const S* from = rows.const_data_ptr<S>();
  std::vector<S> mean(depth);
  share_out_work(depth, count, worth_a_thread, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> sums(end - begin, 0.0);
    for (std::int64_t n = 0; n < count; ++n)
      for (std::int64_t d = begin; d < end; ++d) sums[d - begin] += static_cast<double>(from[n * depth + d]) - from[d];
    // Relative to the first row, so that equal rows are their mean to the bit, and none of them moves.
    for (std::int64_t d = begin; d < end; ++d)
      mean[d] = static_cast<S>(from[d] + sums[d - begin] / static_cast<double>(count));
  });
  Tensor result = torch::stable::new_empty(rows, {count, depth});
  S* to = result.mutable_data_ptr<S>();
  half_squares.resize(count);
  share_out_work(count, depth, worth_a_thread, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      constexpr std::int64_t strands = 16;  // independent sums, which the compiler puts into vectors
      std::array<double, strands> sums{};
      const S* row = from + n * depth;
      S* out = to + n * depth;
      for (std::int64_t d = 0; d < depth; ++d) out[d] = static_cast<S>((static_cast<double>(row[d]) - mean[d]) * power);
      for (std::int64_t d = 0; d + strands <= depth; d += strands)
        for (std::int64_t s = 0; s < strands; ++s) sums[s] += static_cast<double>(out[d + s]) * out[d + s];
      for (std::int64_t d = depth / strands * strands; d < depth; ++d) sums[0] += static_cast<double>(out[d]) * out[d];
      half_squares[n] = std::accumulate(sums.begin(), sums.end(), 0.0) / 2;
    }
  });
  if (!std::all_of(half_squares.begin(), half_squares.end(), [](double v) { return std::isfinite(v); }))
    refuse_infinite(from, count, depth);
  return result;
}

struct Statistics {
  std::vector<std::int64_t> winner;
  std::vector<double> pull, push;  // a_ij of (B4) for references of the winner's class, and for others
  std::atomic<bool> lost_digits{false};

  explicit Statistics(std::int64_t count) : winner(count), pull(count), push(count) {}
};

// Inner products of the rows of a block with those from the block's first on: the upper triangle, in steps.
struct Products {
  std::int64_t height;
  std::vector<Tensor> of_block;

  explicit Products(Tensor rows) : height((rows.size(0) + blocks - 1) / blocks) {
    for (std::int64_t first = 0; first < rows.size(0); first += height) {
      Tensor rest = torch::stable::narrow(rows, 0, first, rows.size(0) - first);
      const Tensor block = torch::stable::narrow(rest, 0, 0, std::min(height, rest.size(0)));
      of_block.push_back(torch::stable::matmul(block, torch::stable::transpose(rest, 0, 1)));
    }
  }
};

// Equations (B1) to (B3): K [N, N] and the errors. Each row is computed whole, exponentials of both triangles, so that
// threads meet once.
template <typename S>
Tensor kernel_of(const Tensor& rows, const std::vector<double>& half_squares, double scale, const std::int64_t* label,
                 std::int64_t classes, const Tensor& error, Statistics& statistics) {
  const std::int64_t count = rows.size(0);
  const Products products(rows);
  std::vector<const S*> product;
  for (const Tensor& block : products.of_block) product.push_back(block.const_data_ptr<S>());
  const auto product_of = [&](std::int64_t upper, std::int64_t lower) {
    const std::int64_t block = upper / products.height, first = block * products.height;
    return &product[block][(upper - first) * (count - first) + lower - first];
  };
  constexpr double most_lengths = std::is_same_v<S, double> ? 1e8 : 16;  // sum of two rows' half squares by σ²
  constexpr double underflow = std::is_same_v<S, double> ? 746 : 104;
  Tensor result = torch::stable::new_empty(rows, {count, count});
  S *kernel = result.mutable_data_ptr<S>(), *errors = error.mutable_data_ptr<S>();
  share_out_work(count, 16 * count + classes, worth_a_thread, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> mass(classes);
    for (std::int64_t i = begin; i < end; ++i) {
      S* row = kernel + i * count;
      const S* right = product_of(i, i);
      for (std::int64_t j = 0; j < i; ++j) row[j] = *product_of(j, i);
      for (std::int64_t j = i; j < count; ++j) row[j] = right[j - i];
      bool lost = false;
      for (std::int64_t j = 0; j < count; ++j) {
        const double lengths = (half_squares[i] + half_squares[j]) * scale;
        const double exponent = std::min((row[j] - half_squares[i] - half_squares[j]) * scale, 0.0);
        lost |= i != j && lengths > most_lengths && exponent > -underflow - 1e-5 * lengths;
        row[j] = std::exp(static_cast<S>(exponent));
      }
      if (lost) statistics.lost_digits = true;
      row[i] = 0;
      std::fill(mass.begin(), mass.end(), 0.0);
      for (std::int64_t j = 0; j < count; ++j) mass[label[j]] += row[j];
      const auto won = std::max_element(mass.begin(), mass.end());
      const double winners = *won;
      *won = 0;
      const double others = std::accumulate(mass.begin(), mass.end(), smallest_mass), total = winners + others;
      statistics.winner[i] = won - mass.begin();
      statistics.pull[i] = others / total / total;
      statistics.push[i] = -winners / total / total;
      errors[i] = static_cast<S>(others / total);
    }
  });
  return result;
}

// K becomes L of (A1), in place. Both triangles are computed, so that threads share nothing.
template <typename S>
void to_laplacian(Tensor& kernel, const std::int64_t* label, const Statistics& of) {
  const std::int64_t count = kernel.size(0);
  S* values = kernel.mutable_data_ptr<S>();
  share_out_work(count, 4 * count, worth_a_thread, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double sum = 0;
      for (std::int64_t j = 0; j < count; ++j) {
        const double mine = label[j] == of.winner[i] ? of.pull[i] : of.push[i];
        const double others = label[i] == of.winner[j] ? of.pull[j] : of.push[j];
        const S weight = static_cast<S>(values[i * count + j] * (mine + others));
        values[i * count + j] = -weight;
        sum += weight;
      }
      values[i * count + i] = static_cast<S>(sum);
    }
  });
}

void check_range(const std::vector<double>& half_squares, double bandwidth) {
  const double longest =
      std::sqrt(2 * *std::max_element(half_squares.begin(), half_squares.end())) / power_of(bandwidth);
  check(longest / bandwidth < 1e12, op, "bandwidth is ", bandwidth, ", but samples of length ", longest,
        " need more: the quotient must be under 1e12");
}

// L x of (A1): σ² does not change a direction. Nothing where rows are too many for a matrix of all pairs, or where rows
// that count for each other lie so many bandwidths from the mean that their differences lose digits to rounding.
template <typename S>
std::optional<Tensor> ascent_direction(const Tensor& rows, const std::int64_t* label, std::int64_t classes,
                                       double bandwidth, const Tensor& error) {
  const double power = power_of(bandwidth);
  std::vector<double> half_squares;
  const Tensor points = centred<S>(rows, power, half_squares);
  check_range(half_squares, bandwidth);
  if (rows.size(0) > most_rows) return std::nullopt;
  Statistics statistics(rows.size(0));
  const double scale = 1 / (bandwidth * power) / (bandwidth * power);
  Tensor kernel = kernel_of<S>(points, half_squares, scale, label, classes, error, statistics);
  if (statistics.lost_digits) return std::nullopt;
  to_laplacian<S>(kernel, label, statistics);
  return torch::stable::matmul(kernel, points);
}

template <std::size_t results, class... Arguments>
std::array<Tensor, results> call(const char* name, const Arguments&... arguments) {
  std::array<StableIValue, std::max(sizeof...(arguments), results)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  std::array<Tensor, results> out;
  for (std::size_t at = 0; at < results; ++at) out[at] = torch::stable::detail::to<Tensor>(stack[at]);
  return out;
}

// The same from bayes_error and its backward.
template <typename S>
std::array<Tensor, 2> error_and_gradient(const Tensor& rows, const Tensor& labels, std::int64_t classes,
                                         double bandwidth) {
  const std::string rbf = "rbf", ieee = "ieee";
  const std::optional<Tensor> none;
  const std::int64_t no_row = -1;
  const auto of = call<3>("unlearn::bayes_error", rows, labels, classes, bandwidth, rbf, ieee, none, no_row);
  const Tensor ones = torch::stable::fill_(torch::stable::empty_like(of[0]), 1);
  const auto grads = call<2>("unlearn::bayes_error_backward", ones, of[1], of[2], rows, labels, classes, bandwidth, rbf,
                             ieee, none, no_row);
  S* values = grads[0].mutable_data_ptr<S>();
  const S unit = static_cast<S>(1 / power_of(bandwidth));
  share_out_work(grads[0].numel(), 1, worth_a_thread, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; ++at) values[at] *= unit;
  });
  return {of[0], grads[0]};
}

void check_arguments(const Tensor& x, const Tensor& labels, const Tensor& origin, std::int64_t classes,
                     double bandwidth, double step_size, double eps, const std::string& norm, double lower,
                     double upper) {
  check_layout(op, "x", x, x.dim() > 0, "[N, ...]");
  check_dtype(op, "x", x.scalar_type(), {ScalarType::Float, ScalarType::Double});
  check_like_x(op, "origin", origin, x);
  check_posterior(op, labels, x.size(0), "samples", classes, bandwidth);
  check_step(op, step_size, eps, norm, lower, upper);
  check_one_device(op, {{"x", &x}, {"labels", &labels}});
}

std::tuple<Tensor, Tensor> bayes_ascent_step(const Tensor& x, const Tensor& given_labels, const Tensor& origin,
                                             std::int64_t classes, double bandwidth, double step_size, double eps,
                                             std::string norm, double lower, double upper) {
  check_arguments(x, given_labels, origin, classes, bandwidth, step_size, eps, norm, lower, upper);
  const Tensor labels = torch::stable::contiguous(given_labels), dense = torch::stable::contiguous(x);
  const std::int64_t count = x.size(0), depth = count > 0 ? x.numel() / count : 0;
  const std::int64_t* label = labels.const_data_ptr<std::int64_t>();
  check_values_within(op, "labels", labels, 0, classes);
  Tensor error = torch::stable::new_empty(x, {count});
  if (count == 0) return {torch::stable::empty_like(x), error};
  const Tensor rows = torch::stable::view(dense, {count, depth});
  const auto along = x.scalar_type() == ScalarType::Double ? ascent_direction<double> : ascent_direction<float>;
  std::optional<Tensor> direction = along(rows, label, classes, bandwidth, error);
  if (!direction) {
    const auto run = x.scalar_type() == ScalarType::Double ? error_and_gradient<double> : error_and_gradient<float>;
    const auto parts = run(rows, labels, classes, bandwidth);
    error = parts[0];
    direction = parts[1];
  }
  std::vector<std::int64_t> shape;
  for (std::int64_t dim = 0; dim < x.dim(); ++dim) shape.push_back(x.size(dim));
  const Tensor grad = torch::stable::view(*direction, {shape.data(), shape.size()});
  return {call<1>("unlearn::pgd_step", x, grad, origin, step_size, eps, norm, lower, upper)[0], error};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(unlearn, CPU, library) { library.impl("bayes_ascent_step", TORCH_BOX(&bayes_ascent_step)); }

}  // namespace unlearn
