// Local contrast as data/local_contrast.py has it, in one pass over the images, row by row.
//
// For each scale the sums of the columns of a row's surroundings are kept, and moved on by a row at a time; running sums
// of these along the row, modulo 2³², give that of every square as a difference. What follows these whole numbers is one
// chain of correctly rounded operations on an element, in NumPy's order.

#include "local_contrast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

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

// Running sums of three channels side by side. The fourth lane is of no use, and each pixel's is overwritten by the next
// one's first: behind both rows there must be room for one more.
void run_along_colours(const Sum* row, Sum* to, std::int64_t size) {
  using Lanes = Sum __attribute__((vector_size(16)));
  Lanes sums{}, next;
  for (std::int64_t i = 0; i < size; i += 3) {
    std::memcpy(&next, row + i, sizeof next);
    sums += next;
    std::memcpy(to + i, &sums, sizeof sums);
  }
}

// What one scale is to a row.
struct Scale {
  const Sum *low, *high;  // running sums where a pixel's surroundings begin and end
  const double* shares;   // 1 / (255 times the pixels that they have)
  double a, b;            // a divided by `curved`
};

inline double bent(const Scale& scale, std::int64_t i, double x, double total) {
  const double sum = static_cast<std::int32_t>(scale.high[i] - scale.low[i]);
  const double difference = x - sum * scale.shares[i], amount = std::abs(difference);
  const double curve = total + scale.a * (difference * amount);
  return curve + scale.b * (amount - middle);
}

UNLEARN_CLONES void bend(const std::uint8_t* __restrict row, const Scale& first, const Scale& second,
                         float* __restrict to, std::int64_t size) {
  const Scale small = first, large = second;
  for (std::int64_t i = 0; i < size; ++i) {
    const double x = row[i] * (1 / 255.0);
    to[i] = static_cast<float>(bent(large, i, x, bent(small, i, x, x)));
  }
}

// One thread's way down the rows of an image.
class Rows {
 public:
  explicit Rows(const LocalContrast& given) : call(given), row(given.row()) {
    thread_local Scratch<double> kept;
    thread_local Scratch<Sum> kept_sums;
    const std::int64_t furthest = *std::max_element(call.reach.begin(), call.reach.end());
    const std::int64_t padded = row + (2 * furthest + 1) * call.channels;
    double* numbers = kept.at_least(LocalContrast::scales * row);
    Sum* whole = kept_sums.at_least(LocalContrast::scales * (row + padded));
    for (std::size_t s = 0; s < call.reach.size(); ++s) {
      shares[s] = numbers + s * row;
      sums[s] = whole + s * row;
      running[s] = whole + LocalContrast::scales * row + s * padded;
    }
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
    std::array<Scale, LocalContrast::scales> scales;
    for (std::size_t s = 0; s < call.reach.size(); ++s) {
      const std::int64_t reach = call.reach[s];
      run_along(sums[s], reach, running[s]);
      share(s, within(y, reach, call.height).size());
      const float* factors = call.factors + (image * LocalContrast::scales + static_cast<std::int64_t>(s)) * 2;
      const Sum* high = running[s] + (2 * reach + 1) * call.channels;
      scales[s] = {running[s], high, shares[s], factors[0] / curved, factors[1]};
    }
    bend(pixels + y * row, scales[0], scales[1], call.out + (image * call.height + y) * row, row);
  }

 private:
  struct Range {
    std::int64_t begin, end;
    std::int64_t size() const { return end - begin; }
  };

  static Range within(std::int64_t at, std::int64_t reach, std::int64_t size) {
    return {std::max(at - reach, std::int64_t{0}), std::min(at + reach + 1, size)};
  }

  // The same for all rows whose surroundings do not meet the upper or lower border.
  void share(std::size_t scale, std::int64_t rows) {
    if (rows == shared[scale]) return;
    shared[scale] = rows;
    for (std::int64_t i = 0; i < row; ++i) {
      const std::int64_t columns = within(i / call.channels, call.reach[scale], call.width).size();
      shares[scale][i] = 1 / (255.0 * static_cast<double>(rows * columns));
    }
  }

  // Sums of what lies before each pixel, from `reach` pixels before the row to as many behind it, which add nothing.
  void run_along(const Sum* columns_of_row, std::int64_t reach, Sum* running_sums) {
    const std::int64_t step = call.channels;
    Sum* to = std::fill_n(running_sums, (reach + 1) * step, Sum{0});
    if (step == 3)
      run_along_colours(columns_of_row, to, row);
    else
      for (std::int64_t i = 0; i < row; ++i) to[i] = columns_of_row[i] + (i < step ? 0 : to[i - step]);
    for (std::int64_t i = row; i < row + reach * step; ++i) to[i] = to[i - step];
  }

  const LocalContrast& call;
  const std::int64_t row;
  const std::uint8_t* pixels = nullptr;
  std::array<std::int64_t, LocalContrast::scales> shared{};  // the rows that `shares` are for
  std::array<double*, LocalContrast::scales> shares;
  std::array<Sum*, LocalContrast::scales> sums, running;
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
