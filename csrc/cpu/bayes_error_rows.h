#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bayes_error.h"
#include "bfloat16.h"
#include "share_out.h"

// Packs rows for the Bayes error's kernels, and unpacks their gradient.

namespace unlearn {

// The caller's rows, relative to a centre, and rounded to bfloat16 where that is asked for.
template <typename S>
struct Points {
  const S* rows;
  std::int64_t count, depth;
  std::vector<double> centre;
  bool rounded;

  void read(std::int64_t row, S* to) const {
    const S* from = rows + row * depth;
    const double* mean = centre.data();
    for (std::int64_t d = 0; d < depth; ++d) to[d] = static_cast<S>(static_cast<double>(from[d]) - mean[d]);
    if (!rounded) return;
    for (std::int64_t d = 0; d < depth; ++d) to[d] = static_cast<S>(rounded_to_bfloat16(static_cast<float>(to[d])));
  }
};

template <typename S>
std::vector<double> mean_of(const S* rows, std::int64_t count, std::int64_t depth) {
  std::vector<double> mean(depth, 0.0);
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t d = 0; d < depth; ++d) mean[d] += static_cast<double>(rows[i * depth + d]);
  for (double& m : mean) m /= static_cast<double>(std::max<std::int64_t>(count, 1));
  return mean;
}

template <typename Body>
void for_each(std::int64_t count, Body body) {
  share_out(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

template <typename S>
void pack_factors(PackedRows<S>& packed, const Points<S>& points, const BayesKernel<S>& kernel) {
  const std::int64_t block = kernel.block, depth = packed.depth, padded_depth = packed.padded_depth;
  const std::int64_t blocks = packed.padded / block, row_size = padded_depth + 1;  // odd pairs read one beyond
  packed.product_block = padded_depth * block / kernel.pairs;
  packed.gram_block = kernel.pairs == 1 ? packed.product_block : (depth + 1) / 2 * block;
  S* singles = kernel.pairs == 1 ? packed.points.at_least(blocks * packed.gram_block) : nullptr;
  std::uint32_t* gram = singles ? nullptr : packed.gram_pairs.at_least(blocks * packed.gram_block);
  std::uint32_t* product = singles ? nullptr : packed.product_pairs.at_least(blocks * packed.product_block);
  packed.gram_factors = singles ? static_cast<const void*>(singles) : gram;
  packed.product_factors = singles ? static_cast<const void*>(singles) : product;
  const auto pair = [](S low, S high) {
    return bits_of(static_cast<float>(low)) >> 16 | (bits_of(static_cast<float>(high)) & 0xffff0000u);
  };
  for_each(blocks, [&](std::int64_t b) {
    std::vector<S> rows(block * row_size, S(0));
    for (std::int64_t lane = 0; lane < block && b * block + lane < packed.count; ++lane)
      points.read(packed.source[b * block + lane], rows.data() + lane * row_size);
    const auto at = [&](std::int64_t lane, std::int64_t d) { return rows[lane * row_size + d]; };
    for (std::int64_t d = 0; singles && d < padded_depth; ++d)
      for (std::int64_t lane = 0; lane < block; ++lane)
        singles[b * packed.gram_block + d * block + lane] = at(lane, d);
    for (std::int64_t d = 0; gram && d < depth; d += 2)
      for (std::int64_t lane = 0; lane < block; ++lane)
        gram[b * packed.gram_block + d / 2 * block + lane] = pair(at(lane, d), at(lane, d + 1));
    for (std::int64_t d = 0; product && d < padded_depth; ++d)
      for (std::int64_t lane = 0; lane < block; lane += 2)
        product[b * packed.product_block + (d * block + lane) / 2] = pair(at(lane, d), at(lane + 1, d));
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

// Centre and radius of every panel, and every row's part of the exponent.
template <typename S>
void measure(PackedRows<S>& packed, const Points<S>& points, std::int64_t panel_rows, double scale, bool rbf) {
  const std::int64_t depth = packed.depth;
  const std::vector<double> origin(depth, 0.0);
  packed.bias.assign(packed.padded, S(-1e30));
  packed.centre.assign(packed.panels * depth, 0.0);
  packed.radius.assign(packed.panels, 0.0);
  packed.largest_square.assign(packed.panels, 0.0);
  for_each(packed.panels, [&](std::int64_t panel) {
    const std::int64_t begin = panel * panel_rows, end = std::min(packed.count, begin + panel_rows);
    double* centre = packed.centre.data() + panel * depth;
    std::vector<S> z(depth);
    for (std::int64_t row = begin; row < end; ++row) {
      points.read(packed.source[row], z.data());
      for (std::int64_t d = 0; d < depth; ++d) centre[d] += static_cast<double>(z[d]);
      const double square = squared_distance(z.data(), origin.data(), depth);
      packed.bias[row] = rbf ? static_cast<S>(-square * scale / 2) : S(0);
      packed.largest_square[panel] = std::max(packed.largest_square[panel], square);
    }
    for (std::int64_t d = 0; d < depth; ++d) centre[d] /= static_cast<double>(end - begin);
    for (std::int64_t row = begin; row < end; ++row) {
      points.read(packed.source[row], z.data());
      const double distance = std::sqrt(squared_distance(z.data(), centre, depth));
      packed.radius[panel] = std::max(packed.radius[panel], distance);
    }
  });
}

// Rows in their order by class, which is stable, or in the caller's order where label is null.
template <typename S>
void pack(PackedRows<S>& packed, const Points<S>& points, const std::int64_t* label, std::int64_t panel_rows,
          const BayesKernel<S>& kernel, double scale, bool rbf) {
  packed.count = points.count;
  packed.depth = points.depth;
  packed.padded_depth = (points.depth + kernel.depth_multiple - 1) / kernel.depth_multiple * kernel.depth_multiple;
  packed.panels = (points.count + panel_rows - 1) / panel_rows;
  packed.padded = packed.panels * panel_rows;
  packed.source.resize(points.count);
  std::iota(packed.source.begin(), packed.source.end(), 0);
  packed.label.assign(packed.padded, S(-1));
  if (label != nullptr) {
    std::stable_sort(packed.source.begin(), packed.source.end(), [=](auto a, auto b) { return label[a] < label[b]; });
    for (std::int64_t row = 0; row < packed.count; ++row) packed.label[row] = static_cast<S>(label[packed.source[row]]);
  }
  pack_factors(packed, points, kernel);
  measure(packed, points, panel_rows, scale, rbf);
}

// (B6) and (B8) from the sums and products, in the caller's order.
template <typename S>
void unpack_gradient(PackedRows<S>& packed, const Points<S>& points, std::int64_t block, double scale, bool rbf, S* out) {
  const S* products = packed.gradient.at_least(0);
  share_out(packed.count, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<S> z(packed.depth);
    for (std::int64_t row = begin; row < end; ++row) {
      const S* product = products + row / block * block * packed.padded_depth + row % block;
      const double sum = rbf ? packed.sums[row] : 0.0;
      points.read(packed.source[row], z.data());
      S* to = out + packed.source[row] * packed.depth;
      for (std::int64_t d = 0; d < packed.depth; ++d)
        to[d] = static_cast<S>((sum * static_cast<double>(z[d]) - static_cast<double>(product[d * block])) * scale);
    }
  });
}

}  // namespace unlearn
