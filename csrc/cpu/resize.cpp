// Pillow's antialiased bilinear scaling of 8-bit RGB, byte for byte, of no more than a window of the result.
//
// Scaled by s = in / out, pixel x of the result lies at c = (x + 1/2)·s. Its weights are a triangle of half width
// max(s, 1) around c, sampled at the centres of input pixels, divided by their sum and rounded to 22 binary places.
// Rows are scaled first and rounded to bytes, columns then. Sums are of integers, so their order does not matter.

#include "resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "clones.h"

namespace unlearn {
namespace {

constexpr int places = 22;
constexpr std::int32_t half = 1 << (places - 1);

// What each of a run of pixels takes from the input: `count` pixels from `first`, with weights [longest] a pixel.
struct Taps {
  std::vector<std::int64_t> first, count;
  std::vector<std::int32_t> weights;
  std::int64_t longest;

  Taps(std::int64_t in, std::int64_t out, std::int64_t begin, std::int64_t size)
      : first(size), count(size), longest(0) {
    const double scale = static_cast<double>(in) / static_cast<double>(out), reach = std::max(scale, 1.0);
    longest = static_cast<std::int64_t>(std::ceil(reach)) * 2 + 1;
    weights.assign(size * longest, 0);
    std::vector<double> exact(longest);
    for (std::int64_t i = 0; i < size; ++i) {
      const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
      first[i] = std::max(static_cast<std::int64_t>(centre - reach + 0.5), std::int64_t{0});
      count[i] = std::min(static_cast<std::int64_t>(centre + reach + 0.5), in) - first[i];
      const double narrow = 1.0 / reach;
      double sum = 0;
      for (std::int64_t t = 0; t < count[i]; ++t) {
        const double from_centre = (static_cast<double>(t + first[i]) - centre + 0.5) * narrow;
        sum += exact[t] = std::max(1.0 - std::abs(from_centre), 0.0);
      }
      for (std::int64_t t = 0; t < count[i]; ++t)
        weights[i * longest + t] = static_cast<std::int32_t>(0.5 + exact[t] / sum * (1 << places));
    }
  }
};

using Pixel = std::int32_t __attribute__((vector_size(16), aligned(4), may_alias));  // three channels, one of the next

UNLEARN_CLONES void widen(const std::uint8_t* from, std::int32_t* to, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) to[i] = from[i];
}

// Sums for one row of pixels; `from` and `sums` have room for a value more than they hold.
UNLEARN_CLONES void scale_row(const std::int32_t* from, const Taps& taps, std::int32_t* sums) {
  const std::int64_t size = static_cast<std::int64_t>(taps.first.size());
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int32_t* input = from + 3 * taps.first[i];
    const std::int32_t* weights = taps.weights.data() + i * taps.longest;
    auto sum = Pixel{half, half, half, half};
    for (std::int64_t t = 0; t < taps.count[i]; ++t) sum += *reinterpret_cast<const Pixel*>(input + 3 * t) * weights[t];
    *reinterpret_cast<Pixel*>(sums + 3 * i) = sum;
  }
}

UNLEARN_CLONES void add_scaled(std::int32_t* sums, const std::uint8_t* row, std::int32_t weight, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) sums[i] += row[i] * weight;
}

UNLEARN_CLONES void round_off(const std::int32_t* sums, std::uint8_t* to, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) to[i] = static_cast<std::uint8_t>(std::min(sums[i] >> places, 255));
}

}  // namespace

void resized_crop(const ResizedCrop& call) {
  const Taps across(call.in_width, call.width, call.left, call.columns);
  const Taps down(call.in_height, call.height, call.top, call.rows);
  const std::int64_t begin = down.first.front(), end = down.first.back() + down.count.back();
  const std::int64_t in_row = 3 * call.in_width, row = 3 * call.columns;
  std::vector<std::int32_t> wide(in_row + 1), sums(row + 1);
  std::vector<std::uint8_t> scaled((end - begin) * row);
  for (std::int64_t r = begin; r < end; ++r) {
    widen(call.image + r * in_row, wide.data(), in_row);
    scale_row(wide.data(), across, sums.data());
    round_off(sums.data(), scaled.data() + (r - begin) * row, row);
  }
  for (std::int64_t r = 0; r < call.rows; ++r) {
    std::fill(sums.begin(), sums.end(), half);
    for (std::int64_t t = 0; t < down.count[r]; ++t)
      add_scaled(sums.data(), scaled.data() + (down.first[r] + t - begin) * row, down.weights[r * down.longest + t], row);
    round_off(sums.data(), call.out + r * row, row);
  }
}

}  // namespace unlearn
