// Local contrast as protect/methods/local_contrast.py has it, in one pass over the images, row by row.
//
// For each scale the sums of the columns of a row's surroundings are kept, and moved on by a row at a time; running sums
// of these along the row, modulo 2³², give that of every square as a difference. What follows these whole numbers is one
// chain of correctly rounded operations on an element, in NumPy's order.

#include "local_contrast.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "clones.h"
#include "scratch.h"
#include "share_out.h"

namespace unlearn {
namespace {

constexpr double curved = 0.15, middle = 0.04;
constexpr std::int64_t elements_a_piece = 1 << 16;

using Sum = std::uint32_t;

UNLEARN_CLONES void add(const std::uint8_t* __restrict row, Sum* __restrict sums, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) sums[i] += row[i];
}

UNLEARN_CLONES void subtract(const std::uint8_t* __restrict row, Sum* __restrict sums, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) sums[i] -= row[i];
}

struct Bend {
  const double* x;
  const Sum *low, *high;  // running sums where a pixel's surroundings begin and end
  const double* columns;  // 255 times the columns that they have
  double rows, a, b;
};

UNLEARN_CLONES void bend(const Bend& call, double* __restrict total, std::int64_t size) {
  const double *x = call.x, *columns = call.columns;
  const Sum *low = call.low, *high = call.high;
  const double rows = call.rows, a = call.a, b = call.b;
  for (std::int64_t i = 0; i < size; ++i) {
    const double sum = static_cast<std::int32_t>(high[i] - low[i]);
    const double difference = x[i] - sum / (rows * columns[i]), amount = std::abs(difference);
    const double curve = total[i] + a * (difference * amount / curved);
    total[i] = curve + b * (amount - middle);
  }
}

UNLEARN_CLONES void narrow(const double* __restrict from, float* __restrict to, std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) to[i] = static_cast<float>(from[i]);
}

// One thread's way down the rows of an image.
class Rows {
 public:
  explicit Rows(const LocalContrast& given) : call(given), row(given.row()) {
    thread_local Scratch<double> kept;
    thread_local Scratch<Sum> kept_sums;
    const std::int64_t furthest = *std::max_element(call.reach.begin(), call.reach.end());
    x = kept.at_least((2 + LocalContrast::scales) * row);
    total = x + row;
    running = kept_sums.at_least((LocalContrast::scales + 1) * row + (2 * furthest + 1) * call.channels);
    for (std::size_t s = 0; s < call.reach.size(); ++s) {
      columns[s] = x + (2 + s) * row;
      sums[s] = running + row + (2 * furthest + 1) * call.channels + s * row;
      for (std::int64_t i = 0; i < row; ++i)
        columns[s][i] = 255.0 * static_cast<double>(within(i / call.channels, call.reach[s], call.width).size());
    }
    for (std::size_t byte = 0; byte < values.size(); ++byte) values[byte] = static_cast<double>(byte) / 255.0;
  }

  void start(std::int64_t image, std::int64_t y) {
    pixels = call.images + image * call.height * row;
    for (std::size_t s = 0; s < call.reach.size(); ++s) {
      std::fill_n(sums[s], row, Sum{0});
      const Range rows = within(y, call.reach[s], call.height);
      for (std::int64_t r = rows.begin; r < rows.end; ++r) add(pixels + r * row, sums[s], row);
    }
  }

  void move_to(std::int64_t y) {
    for (std::size_t s = 0; s < call.reach.size(); ++s) {
      const std::int64_t behind = y - 1 - call.reach[s], ahead = y + call.reach[s];
      if (behind >= 0) subtract(pixels + behind * row, sums[s], row);
      if (ahead < call.height) add(pixels + ahead * row, sums[s], row);
    }
  }

  void write(std::int64_t image, std::int64_t y) {
    for (std::int64_t i = 0; i < row; ++i) total[i] = x[i] = values[pixels[y * row + i]];
    for (std::size_t s = 0; s < call.reach.size(); ++s) {
      const std::int64_t reach = call.reach[s];
      run_along(sums[s], reach);
      const float* factors = call.factors + (image * LocalContrast::scales + static_cast<std::int64_t>(s)) * 2;
      const double rows = static_cast<double>(within(y, reach, call.height).size());
      const Sum* high = running + (2 * reach + 1) * call.channels;
      bend({x, running, high, columns[s], rows, factors[0], factors[1]}, total, row);
    }
    narrow(total, call.out + (image * call.height + y) * row, row);
  }

 private:
  struct Range {
    std::int64_t begin, end;
    std::int64_t size() const { return end - begin; }
  };

  static Range within(std::int64_t at, std::int64_t reach, std::int64_t size) {
    return {std::max(at - reach, std::int64_t{0}), std::min(at + reach + 1, size)};
  }

  // Sums of what lies before each pixel, from `reach` pixels before the row to as many behind it, which add nothing.
  void run_along(const Sum* columns_of_row, std::int64_t reach) {
    const std::int64_t step = call.channels;
    Sum* to = std::fill_n(running, (reach + 1) * step, Sum{0});
    for (std::int64_t channel = 0; channel < step; ++channel) {
      Sum sum = 0;
      for (std::int64_t i = channel; i < row; i += step) to[i] = sum += columns_of_row[i];
      for (std::int64_t i = row + channel; i < row + reach * step; i += step) to[i] = sum;
    }
  }

  const LocalContrast& call;
  const std::int64_t row;
  std::array<double, 256> values;
  const std::uint8_t* pixels = nullptr;
  double *x, *total;
  Sum* running;
  std::array<double*, LocalContrast::scales> columns;
  std::array<Sum*, LocalContrast::scales> sums;
};

}  // namespace

void local_contrast(const LocalContrast& call) {
  share_out_work(call.count * call.height, call.row(), elements_a_piece, [&](std::int64_t begin, std::int64_t end) {
    Rows rows(call);
    for (std::int64_t at = begin; at < end; ++at) {
      const std::int64_t image = at / call.height, y = at % call.height;
      if (at == begin || y == 0)
        rows.start(image, y);
      else
        rows.move_to(y);
      rows.write(image, y);
    }
  });
}

UNLEARN_CLONES void nearest_bytes(const float* __restrict from, std::uint8_t* __restrict to, std::int64_t size) {
  constexpr float whole = 12582912;  // 1.5 · 2²³: so near to it floats are whole numbers, so that adding it rounds
  for (std::int64_t i = 0; i < size; ++i) {
    const auto value = static_cast<std::int32_t>((from[i] * 255.0f + whole) - whole);
    to[i] = static_cast<std::uint8_t>(std::min(std::max(value, 0), 255));
  }
}

}  // namespace unlearn
