#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "bayes_error.h"

// Packs rows for the Bayes error's kernels, and unpacks their gradient.

namespace unlearn {

inline std::uint32_t bfloat16_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// The caller's rows, relative to a centre, and rounded to bfloat16 where that is asked for.
template <typename S>
struct Points {
  const S* rows;
  std::int64_t count, depth;
  std::vector<double> centre;
  bool rounded;

  S operator()(std::int64_t row, std::int64_t d) const {
    const S x = static_cast<S>(static_cast<double>(rows[row * depth + d]) - centre[d]);
    if (!rounded) return x;
    const std::uint32_t bits = bfloat16_bits(static_cast<float>(x)) << 16;
    float single;
    std::memcpy(&single, &bits, 4);
    return static_cast<S>(single);
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
  torch::stable::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

template <typename S>
void pack_factors(PackedRows<S>& packed, const Points<S>& points, const BayesKernel<S>& kernel) {
  const std::int64_t block = kernel.block, depth = packed.depth, padded_depth = packed.padded_depth;
  const auto at = [&](std::int64_t row, std::int64_t d) {
    return row < packed.count && d < depth ? points(packed.source[row], d) : S(0);
  };
  const auto pair = [&](std::int64_t row, std::int64_t d, std::int64_t other_row, std::int64_t other_d) {
    return bfloat16_bits(static_cast<float>(at(row, d))) | bfloat16_bits(static_cast<float>(at(other_row, other_d))) << 16;
  };
  packed.product_block = padded_depth * block / kernel.pairs;
  packed.gram_block = kernel.pairs == 1 ? packed.product_block : (depth + 1) / 2 * block;
  const std::int64_t blocks = packed.padded / block;
  if (kernel.pairs == 1) {
    S* to = packed.points.at_least(blocks * packed.gram_block);
    packed.gram_factors = packed.product_factors = to;
    return for_each(blocks, [&](std::int64_t b) {
      for (std::int64_t lane = 0; lane < block; ++lane)
        for (std::int64_t d = 0; d < padded_depth; ++d)
          to[b * packed.gram_block + d * block + lane] = at(b * block + lane, d);
    });
  }
  std::uint32_t* gram = packed.gram_pairs.at_least(blocks * packed.gram_block);
  std::uint32_t* product = packed.product_pairs.at_least(blocks * packed.product_block);
  packed.gram_factors = gram;
  packed.product_factors = product;
  for_each(blocks, [&](std::int64_t b) {
    const std::int64_t first = b * block;
    for (std::int64_t lane = 0; lane < block; ++lane)
      for (std::int64_t d = 0; d < depth; d += 2)
        gram[b * packed.gram_block + d / 2 * block + lane] = pair(first + lane, d, first + lane, d + 1);
    for (std::int64_t lane = 0; lane < block; lane += 2)
      for (std::int64_t d = 0; d < padded_depth; ++d)
        product[b * packed.product_block + (d * block + lane) / 2] = pair(first + lane, d, first + lane + 1, d);
  });
}

// Centre and radius of every panel, and every row's part of the exponent.
template <typename S>
void measure(PackedRows<S>& packed, const Points<S>& points, std::int64_t panel_rows, double scale, bool rbf) {
  const std::int64_t depth = packed.depth;
  packed.bias.assign(packed.padded, S(-1e30));
  packed.centre.assign(packed.panels * depth, 0.0);
  packed.radius.assign(packed.panels, 0.0);
  for_each(packed.panels, [&](std::int64_t panel) {
    const std::int64_t begin = panel * panel_rows, end = std::min(packed.count, begin + panel_rows);
    double* centre = packed.centre.data() + panel * depth;
    for (std::int64_t row = begin; row < end; ++row) {
      double square = 0;
      for (std::int64_t d = 0; d < depth; ++d) {
        const double x = static_cast<double>(points(packed.source[row], d));
        square += x * x;
        centre[d] += x / static_cast<double>(end - begin);
      }
      packed.bias[row] = rbf ? static_cast<S>(-square * scale / 2) : S(0);
      packed.largest_square.at(panel) = std::max(packed.largest_square[panel], square);
    }
    for (std::int64_t row = begin; row < end; ++row) {
      double square = 0;
      for (std::int64_t d = 0; d < depth; ++d) {
        const double x = static_cast<double>(points(packed.source[row], d)) - centre[d];
        square += x * x;
      }
      packed.radius[panel] = std::max(packed.radius[panel], std::sqrt(square));
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
  packed.largest_square.assign(packed.panels, 0.0);
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
  for_each(packed.count, [&](std::int64_t row) {
    const S* product = products + row / block * block * packed.padded_depth + row % block;
    S* to = out + packed.source[row] * packed.depth;
    for (std::int64_t d = 0; d < packed.depth; ++d) {
      const double pulled = rbf ? packed.sums[row] * static_cast<double>(points(packed.source[row], d)) : 0.0;
      to[d] = static_cast<S>((pulled - static_cast<double>(product[d * block])) * scale);
    }
  });
}

}  // namespace unlearn
