// torch.ops.unlearn.bayes_error on the CPU: arguments checked, rows packed, pairs of panels shared out among threads.
//
// Pairs come in rounds that use every panel at most once, so threads never write to the same rows, and every row's
// sums are added in one order, whatever the number of threads.

#include "bayes_error.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <atomic>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "arguments.h"
#include "bayes_error_rows.h"
#include "capability.h"

namespace unlearn {
namespace {

constexpr const char* op = "bayes_error: ";
constexpr double smallest_mass = 1e-8;

std::atomic<std::int64_t> pairs_computed{0}, pairs_skipped{0};

struct Arguments {
  Tensor features, labels;
  std::optional<Tensor> references;
  std::int64_t classes, first_row;
  double bandwidth;
  bool rbf, bf16;

  const Tensor& pool() const { return references ? *references : features; }
  // Points are multiplied by it, so that what the kernels see has a bandwidth in [1, 2).
  double power() const { return power_of(bandwidth); }
  double scale() const { return 1 / (bandwidth * power()) / (bandwidth * power()); }
};

Arguments check_arguments(const Tensor& features, const Tensor& labels, std::int64_t classes, double bandwidth,
                          const std::string& similarity, const std::string& precision,
                          const std::optional<Tensor>& references, std::int64_t first_row) {
  check_layout(op, "features", features, features.dim() == 2, "[N, D]");
  const ScalarType type = features.scalar_type();
  check_dtype(op, "features", type, {ScalarType::Float, ScalarType::Double});
  if (references) {
    check(references->dim() == 2 && references->size(1) == features.size(1), op, "references must be [M, ",
          features.size(1), "] as features are, got ", shape_of(*references));
    check(references->scalar_type() == type, op, "references must have the dtype of features, ", name_of(type),
          ", got ", name_of(references->scalar_type()));
    check_posterior(op, labels, references->size(0), "references", classes, bandwidth, "[M]");
    const std::string why = " for " + std::to_string(features.size(0)) + " features among " +
                            std::to_string(references->size(0)) + " references";
    if (first_row != -1) check_within(op, "first_row", first_row, 0, references->size(0) - features.size(0), why);
  } else {
    check_posterior(op, labels, features.size(0), "features", classes, bandwidth);
    check(first_row == -1, op, "first_row is ", first_row, ", but without references");
  }
  const bool rbf = check_one_of(op, "similarity", similarity, {"rbf", "logistic"}) == 0;
  check_one_of(op, "precision", precision, {"ieee", "tf32", "bf16"});
  check_one_device(op, {{"features", &features}, {"labels", &labels},
                        {"references", references ? &*references : nullptr}});
  const bool bf16 = precision == "bf16" && type == ScalarType::Float;
  Arguments call{torch::stable::contiguous(features), torch::stable::contiguous(labels), std::nullopt, classes,
                 first_row, bandwidth, rbf, bf16};
  if (references) call.references = torch::stable::contiguous(*references);
  return call;
}

template <typename S>
void check_finite(const Tensor& rows, const char* name) {
  const S *values = rows.const_data_ptr<S>(), largest = std::numeric_limits<S>::max();
  const std::int64_t count = rows.size(0), depth = rows.size(1);
  std::atomic<std::int64_t> first_bad{count};
  share_out_work(count, depth, 1 << 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const S* at = values + row * depth;
      int bad = 0;
      for (std::int64_t d = 0; d < depth; ++d) bad |= !(std::abs(at[d]) <= largest);
      for (std::int64_t first = first_bad; bad && row < first && !first_bad.compare_exchange_weak(first, row);) {}
    }
  });
  const std::int64_t row = first_bad;
  for (std::int64_t d = 0; row < count && d < depth; ++d) {
    const S value = values[row * depth + d];
    check(std::isfinite(value), op, name, "[", row, ", ", d, "] is ", value, ", but must be finite");
  }
}

template <typename S>
BayesKernel<S> kernel_for(bool bf16);

template <>
BayesKernel<double> kernel_for<double>(bool) {
#if defined(__x86_64__)
  const auto capability = cpu_capability();
  if (capability == CpuCapability::avx512) return bayes_error_avx512_double();
  if (capability == CpuCapability::avx2) return bayes_error_avx2_double();
#endif
  return bayes_error_portable_double();
}

template <>
BayesKernel<float> kernel_for<float>(bool bf16) {
#if defined(__x86_64__)
  const auto capability = cpu_capability();
  if (capability == CpuCapability::avx512) {
    __builtin_cpu_init();
    return bf16 && __builtin_cpu_supports("avx512bf16") ? bayes_error_avx512bf16() : bayes_error_avx512();
  }
  if (capability == CpuCapability::avx2) return bayes_error_avx2();
#endif
  static_cast<void>(bf16);
  return bayes_error_portable();
}

// One call's rows, packed.
template <typename S>
struct Prepared {
  BayesKernel<S> kernel;
  std::int64_t panel_rows;
  Points<S> query_points, reference_points;
  PackedRows<S> query_rows, reference_rows;
  BayesCall<S> call;

  explicit Prepared(const Arguments& a) : kernel(kernel_for<S>(a.bf16)) {
    check_finite<S>(a.features, "features");
    if (a.references) check_finite<S>(*a.references, "references");
    check_values_within(op, "labels", a.labels, 0, a.classes);
    const std::int64_t depth = a.features.size(1), count = a.pool().size(0), first = a.first_row;
    const S* pool = a.pool().template const_data_ptr<S>();
    const std::int64_t* labels = a.labels.template const_data_ptr<std::int64_t>();
    const auto centre = a.rbf ? mean_of(pool, count, depth) : std::vector<double>(depth, 0.0);
    panel_rows = rows_of_panel(std::min(count, a.features.size(0)));
    query_points = {a.features.template const_data_ptr<S>(), a.features.size(0), depth, centre, a.power(), a.bf16};
    reference_points = {pool, count, depth, centre, a.power(), a.bf16};
    const std::int64_t* query_labels = !a.references ? labels : first >= 0 ? labels + first : nullptr;
    arrange(query_rows, query_points, query_labels, {}, panel_rows, kernel);
    if (a.references) arrange(reference_rows, reference_points, labels, {}, panel_rows, kernel);
    const double longest = check_range(a);
    const bool local = a.rbf && longest > longest_about_mean<S>();
    const double bandwidth = a.bandwidth * a.power();
    call = {&query_rows, a.references ? &reference_rows : &query_rows, panel_rows / kernel.block, a.classes,
            static_cast<S>(a.scale()), a.rbf, a.bf16, local, bandwidth * widest_pair<S>()};
    if (local) {
      regroup(a, query_rows, query_points, query_labels);
      if (a.references) regroup(a, reference_rows, reference_points, labels);
    }
    finish(a, query_rows, query_points);
    if (a.references) finish(a, reference_rows, reference_points);
    if (any_wide()) {
      pack_plain(query_rows, query_points, kernel);
      if (a.references) pack_plain(reference_rows, reference_points, kernel);
    }
    find_own(a);
  }

  // Groups of rows far apart get panels of their own: most pairs of panels can then be skipped, and few are wide.
  void regroup(const Arguments& a, PackedRows<S>& rows, const Points<S>& points, const std::int64_t* labels) {
    const double bandwidth = a.bandwidth * a.power(), radius = 16 * bandwidth;
    if (std::any_of(rows.radius.begin(), rows.radius.end(), [=](double each) { return each > radius; }))
      arrange(rows, points, labels, group_rows(points, radius, panel_rows / 4), panel_rows, kernel);
  }

  void finish(const Arguments& a, PackedRows<S>& rows, const Points<S>& points) {
    pack_factors(rows, points, panel_rows, kernel, call.local);
    set_bias(rows, points, panel_rows, a.scale(), a.rbf, call.local);
  }

  void find_own(const Arguments& a) {
    query_rows.own.assign(query_rows.padded, -1);
    if (a.references && a.first_row < 0) return;
    const auto& order = call.references->source;
    std::vector<std::int64_t> packed(call.references->count);
    for (std::size_t row = 0; row < order.size(); ++row)
      if (order[row] >= 0) packed[order[row]] = static_cast<std::int64_t>(row);
    for (std::int64_t row = 0; row < query_rows.padded; ++row)
      if (query_rows.source[row] >= 0)
        query_rows.own[row] = packed[query_rows.source[row] + std::max<std::int64_t>(a.first_row, 0)];
  }

  // Returns the length of the longest row in bandwidths.
  double check_range(const Arguments& a) const {
    double largest = 0;
    for (const auto* rows : {&query_rows, &reference_rows})
      for (const double square : rows->largest_square) largest = std::max(largest, square);
    const double length = std::sqrt(largest) / a.power(), longest = length / a.bandwidth;
    check(longest < 1e12, op, "bandwidth is ", a.bandwidth, ", but features of length ", length,
          " need more: the quotient must be under 1e12");
    return longest;
  }

  // Whether even the closest two points of two panels are so far apart that their K is 0.
  bool is_empty(std::int64_t i, std::int64_t j) const {
    if (!call.rbf) return false;
    const auto &q = *call.queries, &r = *call.references;
    const double square = call.offset_square(i, j);
    const double gap = std::sqrt(square) * (1 - 1e-9) - (q.radius[i] + r.radius[j]) * (1 + 1e-9);
    const double squares = call.local ? square + q.radius[i] * q.radius[i] + r.radius[j] * r.radius[j]
                                      : q.largest_square[i] + r.largest_square[j];
    const double rounding = 1e-4 * static_cast<double>(call.scale) * squares;
    const double underflow = std::is_same_v<S, double> ? 746 : 88;
    return gap > 0 && gap * gap * static_cast<double>(call.scale) / 2 > underflow + rounding;
  }

  bool any_wide() const {
    for (std::int64_t i = 0; call.local && i < call.queries->panels; ++i)
      for (std::int64_t j = call.shared() ? i : 0; j < call.references->panels; ++j)
        if (call.wide(i, j) && !is_empty(i, j)) return true;
    return false;
  }

  // Calls the sweep for every pair of panels, unordered pairs where both are of the same rows: in round r those with
  // i + j = r modulo the number of panels, in which no panel occurs twice.
  void sweep(typename BayesKernel<S>::Sweep run) const {
    const std::int64_t left = call.queries->panels, right = call.references->panels, rounds = std::max(left, right);
    std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
    std::int64_t computed = 0, skipped = 0;
    for (std::int64_t round = 0; round < rounds; ++round) {
      pairs.clear();
      for (std::int64_t i = 0; i < left; ++i) {
        const std::int64_t j = (round - i + rounds) % rounds;
        if (j >= right || (call.shared() && j < i)) continue;
        if (is_empty(i, j))
          ++skipped;
        else
          pairs.emplace_back(i, j);
      }
      computed += static_cast<std::int64_t>(pairs.size());
      share_out(static_cast<std::int64_t>(pairs.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t at = begin; at < end; ++at) run(call, pairs[at].first, pairs[at].second);
      });
    }
    pairs_computed = computed;
    pairs_skipped = skipped;
  }
};

template <typename S>
void statistics(const Arguments& a, const Tensor& error, const Tensor& mass, const Tensor& winner) {
  Prepared<S> prepared(a);
  auto& rows = prepared.query_rows;
  rows.mass.assign(rows.padded * a.classes, 0.0);
  prepared.sweep(prepared.kernel.statistics);
  S *errors = error.mutable_data_ptr<S>(), *masses = mass.mutable_data_ptr<S>();
  std::int64_t* winners = winner.mutable_data_ptr<std::int64_t>();
  share_out_work(rows.padded, a.classes, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      if (rows.source[row] < 0) continue;
      const double* by_class = rows.mass.data() + row * a.classes;
      const std::int64_t won = std::max_element(by_class, by_class + a.classes) - by_class, to = rows.source[row];
      const double others = std::accumulate(by_class, by_class + won, smallest_mass) +
                            std::accumulate(by_class + won + 1, by_class + a.classes, 0.0);
      errors[to] = static_cast<S>(others / (others + by_class[won]));
      masses[2 * to] = static_cast<S>(by_class[won]);
      masses[2 * to + 1] = static_cast<S>(others);
      winners[to] = won;
    }
  });
}

template <typename S>
void gradient(const Arguments& a, const Tensor& grad, const Tensor& mass, const Tensor& winner,
              const Tensor& grad_features, const Tensor& grad_references) {
  Prepared<S> prepared(a);
  auto &queries = prepared.query_rows, &references = *prepared.call.references;
  const S *weight = grad.const_data_ptr<S>(), *masses = mass.const_data_ptr<S>();
  const std::int64_t* winners = winner.const_data_ptr<std::int64_t>();
  queries.winner.assign(queries.padded, S(-2));
  queries.weight_won.assign(queries.padded, S(0));
  queries.weight_lost.assign(queries.padded, S(0));
  for (std::int64_t row = 0; row < queries.padded; ++row) {
    const std::int64_t from = queries.source[row];
    if (from < 0) continue;
    const double won = masses[2 * from], others = masses[2 * from + 1], total = won + others;
    queries.winner[row] = static_cast<S>(winners[from]);
    queries.weight_won[row] = static_cast<S>(weight[from] * others / (total * total));
    queries.weight_lost[row] = static_cast<S>(-(weight[from] * won) / (total * total));
  }
  for (auto* rows : {&queries, &references}) {
    rows->sums.assign(rows->padded, 0.0);
    const std::int64_t size = rows->padded * rows->padded_depth;
    std::fill_n(rows->gradient.at_least(size), size, S(0));
  }
  prepared.sweep(prepared.kernel.gradient);
  const auto unpack = [&](auto& rows, const auto& points, const Tensor& to) {
    unpack_gradient(rows, points, prepared.panel_rows, prepared.kernel.block, a.scale() * a.power(), a.rbf,
                    prepared.call.local, to.mutable_data_ptr<S>());
  };
  unpack(queries, prepared.query_points, grad_features);
  if (a.references) unpack(references, prepared.reference_points, grad_references);
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& features, const Tensor& labels, std::int64_t classes,
                                           double bandwidth, std::string similarity, std::string precision,
                                           std::optional<Tensor> references, std::int64_t first_row) {
  const Arguments a =
      check_arguments(features, labels, classes, bandwidth, similarity, precision, references, first_row);
  const std::int64_t count = features.size(0);
  Tensor error = torch::stable::new_empty(features, {count});
  Tensor mass = torch::stable::new_empty(features, {count, 2});
  Tensor winner = torch::stable::new_empty(labels, {count});
  features.scalar_type() == ScalarType::Double ? statistics<double>(a, error, mass, winner)
                                               : statistics<float>(a, error, mass, winner);
  return {error, mass, winner};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& mass, const Tensor& winner,
                                    const Tensor& features, const Tensor& labels, std::int64_t classes,
                                    double bandwidth, std::string similarity, std::string precision,
                                    std::optional<Tensor> references, std::int64_t first_row) {
  const Arguments a =
      check_arguments(features, labels, classes, bandwidth, similarity, precision, references, first_row);
  const std::int64_t count = features.size(0), depth = features.size(1);
  const auto type = features.scalar_type();
  check(grad.dim() == 1 && grad.size(0) == count && grad.scalar_type() == type && mass.numel() == 2 * count &&
            mass.scalar_type() == type && winner.numel() == count && winner.scalar_type() == ScalarType::Long,
        op, "grad, mass and winner must be of the shapes and dtypes that bayes_error returned");
  Tensor grad_features = torch::stable::new_empty(features, {count, depth});
  Tensor grad_references = a.references ? torch::stable::new_empty(features, {a.pool().size(0), depth})
                                        : torch::stable::new_empty(features, {0});
  const auto run = type == ScalarType::Double ? gradient<double> : gradient<float>;
  run(a, torch::stable::contiguous(grad), torch::stable::contiguous(mass), torch::stable::contiguous(winner),
      grad_features, grad_references);
  return {grad_features, grad_references};
}

}  // namespace

std::pair<std::int64_t, std::int64_t> bayes_error_pairs() { return {pairs_computed, pairs_skipped}; }

}  // namespace unlearn

STABLE_TORCH_LIBRARY_IMPL(unlearn, CPU, library) {
  library.impl("bayes_error", TORCH_BOX(&unlearn::forward));
  library.impl("bayes_error_backward", TORCH_BOX(&unlearn::backward));
}
