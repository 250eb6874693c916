#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <type_traits>

#include "bayes_error.h"
#include "bfloat16.h"
#include "share_out.h"

// Packs rows for the Bayes error's kernels, and unpacks their gradient.

namespace unlearn {

// The caller's rows, relative to a centre, times a power of two that makes the bandwidth about 1, so that squares
// neither over- nor underflow; and rounded to bfloat16 where that is asked for.
template <typename S>
struct Points {
  const S* rows;
  std::int64_t count, depth;
  std::vector<double> centre;
  double power;
  bool rounded;

  // `shift` is subtracted after the scaling; none if null.
  void read_exactly(std::int64_t row, const double* shift, S* to) const {
    const S* from = rows + row * depth;
    const double* mean = centre.data();
    if (shift == nullptr)
      for (std::int64_t d = 0; d < depth; ++d)
        to[d] = static_cast<S>((static_cast<double>(from[d]) - mean[d]) * power);
    else
      for (std::int64_t d = 0; d < depth; ++d)
        to[d] = static_cast<S>((static_cast<double>(from[d]) - mean[d]) * power - shift[d]);
  }

  void read(std::int64_t row, const double* shift, S* to) const {
    read_exactly(row, shift, to);
    if (!rounded) return;
    for (std::int64_t d = 0; d < depth; ++d) to[d] = static_cast<S>(rounded_to_bfloat16(static_cast<float>(to[d])));
  }
};

// A tile and its transpose of 288 rows fill most of a second-level cache. Fewer, so that there are close to 32 panels,
// and a round of the sweep has a pair for each of 16 threads; the number of threads itself must not change a bit.
inline std::int64_t rows_of_panel(std::int64_t rows) {
  const std::int64_t step = 48, panels = 32;
  return std::clamp<std::int64_t>((rows + panels * step - 1) / (panels * step) * step, step, 288);
}

// In bandwidths: the longest row for which points are relative to the common mean, and the most over which a pair of
// panels with centres of their own may extend before it is evaluated from differences.
template <typename S>
constexpr double longest_about_mean() {
  return std::is_same_v<S, double> ? 1e4 : 4;
}

template <typename S>
constexpr double widest_pair() {
  return std::is_same_v<S, double> ? 1e4 : 12;
}

template <typename Body>
void for_each(std::int64_t count, Body body) {
  share_out(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

// The sum of the sums of every 256 rows, whatever the number of threads.
template <typename S>
std::vector<double> mean_of(const S* rows, std::int64_t count, std::int64_t depth) {
  constexpr std::int64_t part = 256;
  const std::int64_t parts = (count + part - 1) / part;
  std::vector<double> sums(parts * depth, 0.0), mean(depth, 0.0);
  for_each(parts, [&](std::int64_t p) {
    for (std::int64_t i = p * part; i < std::min(count, (p + 1) * part); ++i)
      for (std::int64_t d = 0; d < depth; ++d) sums[p * depth + d] += static_cast<double>(rows[i * depth + d]);
  });
  for (std::int64_t p = 0; p < parts; ++p)
    for (std::int64_t d = 0; d < depth; ++d) mean[d] += sums[p * depth + d];
  for (double& m : mean) m /= static_cast<double>(std::max<std::int64_t>(count, 1));
  return mean;
}

template <typename S>
const double* centre_of(const PackedRows<S>& packed, std::int64_t panel_rows, std::int64_t row, bool local) {
  return local ? packed.centre.data() + row / panel_rows * packed.depth : nullptr;
}

template <typename S>
void pack_factors(PackedRows<S>& packed, const Points<S>& points, std::int64_t panel_rows, const BayesKernel<S>& kernel,
                  bool local) {
  const std::int64_t block = kernel.block, depth = packed.depth, padded_depth = packed.padded_depth;
  const std::int64_t blocks = packed.padded / block, row_size = padded_depth + 1;  // odd pairs read one beyond
  const bool paired = kernel.pairs == 2;
  packed.product_block = padded_depth * block / kernel.pairs;
  packed.gram_block = paired ? (depth + 1) / 2 * block : packed.product_block;
  S* singles = paired && !local ? nullptr : packed.points.at_least(blocks * padded_depth * block);
  std::uint32_t* gram = paired ? packed.gram_pairs.at_least(blocks * packed.gram_block) : nullptr;
  std::uint32_t* product = paired ? packed.product_pairs.at_least(blocks * packed.product_block) : nullptr;
  packed.singles = singles;
  packed.gram_factors = paired ? static_cast<const void*>(gram) : singles;
  packed.product_factors = paired ? static_cast<const void*>(product) : singles;
  const auto pair = [](S low, S high) {
    return bits_of(static_cast<float>(low)) >> 16 | (bits_of(static_cast<float>(high)) & 0xffff0000u);
  };
  for_each(blocks, [&](std::int64_t b) {
    std::vector<S> rows(block * row_size, S(0));
    for (std::int64_t lane = 0, row = b * block; lane < block; ++lane, ++row)
      if (packed.source[row] >= 0)
        points.read(packed.source[row], centre_of(packed, panel_rows, row, local), rows.data() + lane * row_size);
    const auto at = [&](std::int64_t lane, std::int64_t d) { return rows[lane * row_size + d]; };
    for (std::int64_t d = 0; singles && d < padded_depth; ++d)
      for (std::int64_t lane = 0; lane < block; ++lane)
        singles[(b * padded_depth + d) * block + lane] = at(lane, d);
    for (std::int64_t d = 0; gram && d < depth; d += 2)
      for (std::int64_t lane = 0; lane < block; ++lane)
        gram[b * packed.gram_block + d / 2 * block + lane] = pair(at(lane, d), at(lane, d + 1));
    for (std::int64_t d = 0; product && d < padded_depth; ++d)
      for (std::int64_t lane = 0; lane < block; lane += 2)
        product[b * packed.product_block + (d * block + lane) / 2] = pair(at(lane, d), at(lane + 1, d));
  });
}

// The caller's rows, scaled alone, so that differences of close ones are exact.
template <typename S>
void pack_plain(PackedRows<S>& packed, const Points<S>& points, const BayesKernel<S>& kernel) {
  const std::int64_t block = kernel.block, step = packed.padded_depth * block;
  S* plain = packed.plain_points.at_least(packed.padded * packed.padded_depth);
  packed.plain = plain;
  for_each(packed.padded / block, [&](std::int64_t b) {
    S* to = plain + b * step;
    std::fill_n(to, step, S(0));
    for (std::int64_t d = 0; d < packed.depth; ++d)
      for (std::int64_t lane = 0; lane < block; ++lane) {
        const std::int64_t row = packed.source[b * block + lane];
        if (row >= 0)
          to[d * block + lane] = static_cast<S>(static_cast<double>(points.rows[row * packed.depth + d]) * points.power);
      }
  });
}

// ‖row − centre‖², in eight sums that vectors can hold.
template <typename S>
double squared_distance(const S* row, const double* centre, std::int64_t depth) {
  double sums[8] = {};
  for (std::int64_t d = 0; d < depth; d += 8)
    for (std::int64_t lane = 0; lane < 8 && d + lane < depth; ++lane) {
      const double x = static_cast<double>(row[d + lane]) - centre[d + lane];
      sums[lane] += x * x;
    }
  return std::accumulate(sums, sums + 8, 0.0);
}

// Centre and radius of every panel, and its longest row.
template <typename S>
void measure(PackedRows<S>& packed, const Points<S>& points, std::int64_t panel_rows) {
  const std::int64_t depth = packed.depth;
  const std::vector<double> origin(depth, 0.0);
  packed.centre.assign(packed.panels * depth, 0.0);
  packed.radius.assign(packed.panels, 0.0);
  packed.largest_square.assign(packed.panels, 0.0);
  for_each(packed.panels, [&](std::int64_t panel) {
    const std::int64_t* source = packed.source.data() + panel * panel_rows;
    std::int64_t rows = 0;
    while (rows < panel_rows && source[rows] >= 0) ++rows;
    double* centre = packed.centre.data() + panel * depth;
    std::vector<S> z(depth);
    for (std::int64_t row = 0; row < rows; ++row) {
      points.read_exactly(source[row], nullptr, z.data());
      for (std::int64_t d = 0; d < depth; ++d) centre[d] += static_cast<double>(z[d]);
      packed.largest_square[panel] =
          std::max(packed.largest_square[panel], squared_distance(z.data(), origin.data(), depth));
    }
    for (std::int64_t d = 0; d < depth; ++d) centre[d] /= static_cast<double>(std::max<std::int64_t>(rows, 1));
    for (std::int64_t row = 0; row < rows; ++row) {
      points.read_exactly(source[row], nullptr, z.data());
      const double distance = std::sqrt(squared_distance(z.data(), centre, depth));
      packed.radius[panel] = std::max(packed.radius[panel], distance);
    }
  });
}

// Every row's part of the exponent.
template <typename S>
void set_bias(PackedRows<S>& packed, const Points<S>& points, std::int64_t panel_rows, double scale, bool rbf,
              bool local) {
  const std::vector<double> origin(packed.depth, 0.0);
  packed.bias.assign(packed.padded, S(-1e30));
  for_each(packed.panels, [&](std::int64_t panel) {
    std::vector<S> z(packed.depth);
    for (std::int64_t row = panel * panel_rows; row < (panel + 1) * panel_rows; ++row) {
      if (packed.source[row] < 0) continue;
      points.read(packed.source[row], centre_of(packed, panel_rows, row, local), z.data());
      const double square = squared_distance(z.data(), origin.data(), packed.depth);
      packed.bias[row] = rbf ? static_cast<S>(-square * scale / 2) : S(0);
    }
  });
}

// Whether two points lie within a distance of each other; most far ones are told by their first coordinates.
template <typename S>
bool within(const S* a, const double* b, std::int64_t depth, double distance) {
  constexpr std::int64_t step = 128;
  double square = 0;
  for (std::int64_t d = 0; d < depth && square <= distance * distance; d += step)
    square += squared_distance(a + d, b + d, std::min(step, depth - d));
  return square <= distance * distance;
}

// A group for every row, such that rows of a group lie within `radius` of its first one; -1 for rows of groups of fewer
// than `fewest`, and for what is left over once there are 256 groups.
template <typename S>
std::vector<std::int64_t> group_rows(const Points<S>& points, double radius, std::int64_t fewest) {
  constexpr std::size_t most_groups = 256;
  const std::int64_t depth = points.depth;
  std::vector<std::vector<double>> leaders;
  std::vector<std::int64_t> group(points.count, -1), members;
  std::vector<S> z(depth);
  for (std::int64_t row = 0; row < points.count; ++row) {
    points.read_exactly(row, nullptr, z.data());
    for (std::size_t leader = 0; leader < leaders.size() && group[row] < 0; ++leader)
      if (within(z.data(), leaders[leader].data(), depth, radius))
        group[row] = static_cast<std::int64_t>(leader);
    if (group[row] < 0 && leaders.size() < most_groups) {
      group[row] = static_cast<std::int64_t>(leaders.size());
      leaders.emplace_back(z.begin(), z.end());
      members.push_back(0);
    }
    if (group[row] >= 0) ++members[group[row]];
  }
  for (std::int64_t& each : group)
    if (each >= 0 && members[each] < fewest) each = -1;
  return group;
}

// Lays rows out in panels: by group where there are any, which share no panel, then by class where labels are given,
// then in the caller's order; and measures the panels.
template <typename S>
void arrange(PackedRows<S>& packed, const Points<S>& points, const std::int64_t* label,
             const std::vector<std::int64_t>& group, std::int64_t panel_rows, const BayesKernel<S>& kernel) {
  packed.count = points.count;
  packed.depth = points.depth;
  packed.padded_depth = (points.depth + kernel.depth_multiple - 1) / kernel.depth_multiple * kernel.depth_multiple;
  std::vector<std::int64_t> order(points.count);
  std::iota(order.begin(), order.end(), 0);
  if (label != nullptr) std::stable_sort(order.begin(), order.end(), [=](auto a, auto b) { return label[a] < label[b]; });
  if (!group.empty())
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return group[a] < group[b]; });
  packed.source.clear();
  const auto fill_panel = [&] {
    while (packed.source.size() % static_cast<std::size_t>(panel_rows) != 0) packed.source.push_back(-1);
  };
  for (std::size_t row = 0; row < order.size(); ++row) {
    if (!group.empty() && row > 0 && group[order[row]] != group[order[row - 1]]) fill_panel();
    packed.source.push_back(order[row]);
  }
  fill_panel();
  packed.padded = static_cast<std::int64_t>(packed.source.size());
  packed.panels = packed.padded / panel_rows;
  packed.label.assign(packed.padded, S(-1));
  for (std::int64_t row = 0; label != nullptr && row < packed.padded; ++row)
    if (packed.source[row] >= 0) packed.label[row] = static_cast<S>(label[packed.source[row]]);
  measure(packed, points, panel_rows);
}

// (B6) and (B8) from the sums and products, in the caller's order.
template <typename S>
void unpack_gradient(PackedRows<S>& packed, const Points<S>& points, std::int64_t panel_rows, std::int64_t block,
                     double scale, bool rbf, bool local, S* out) {
  const S* products = packed.gradient.at_least(0);
  share_out(packed.padded, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<S> z(packed.depth);
    for (std::int64_t row = begin; row < end; ++row) {
      if (packed.source[row] < 0) continue;
      const S* product = products + row / block * block * packed.padded_depth + row % block;
      const double sum = rbf ? packed.sums[row] : 0.0;
      points.read(packed.source[row], centre_of(packed, panel_rows, row, local), z.data());
      S* to = out + packed.source[row] * packed.depth;
      for (std::int64_t d = 0; d < packed.depth; ++d)
        to[d] = static_cast<S>((sum * static_cast<double>(z[d]) - static_cast<double>(product[d * block])) * scale);
    }
  });
}

}  // namespace unlearn
