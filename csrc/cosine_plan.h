#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace unlearn {

// cos(π · numerator / denominator), reduced to an angle of at most π/4 in whole numbers.
inline double cosine(std::int64_t numerator, std::int64_t denominator) {
  constexpr double pi = 3.141592653589793;
  std::int64_t n = numerator % (2 * denominator);
  if (n > denominator) n = 2 * denominator - n;
  const double sign = 2 * n > denominator ? -1 : 1;
  if (sign < 0) n = denominator - n;
  if (4 * n <= denominator) return sign * std::cos(pi * static_cast<double>(n) / static_cast<double>(denominator));
  return sign * std::sin(pi * static_cast<double>(denominator - 2 * n) / static_cast<double>(2 * denominator));
}

// The coefficients of the cosine transforms of length n, docs/maths.md (S5) to (S8), as ops/cosine_transform.py has them.
// Level l is the length n / 2^l; the last one is odd.
template <typename S>
struct CosinePlan {
  std::int64_t n, odd;
  // For each level but the last [length / 2, 4]: what (S7) multiplies opposite and own input by, for a and for b.
  std::vector<std::vector<S>> turns;
  std::vector<S> even_rows, odd_rows, fourth;  // of the odd length: [sums, sums], [differences, differences], [odd, odd]

  const S* turn(int level) const { return turns[level].data(); }
  const S* even_row() const { return even_rows.data(); }
  const S* odd_row() const { return odd_rows.data(); }
  const S* fourth_row() const { return fourth.data(); }

  explicit CosinePlan(std::int64_t length) : n(length), odd(length) {
    for (; odd % 2 == 0; odd /= 2) {
      auto& turn = turns.emplace_back();
      for (std::int64_t i = 0; i < odd / 2; ++i) {
        const double own = cosine(2 * i + 1, 4 * odd), opposite = cosine(2 * odd - 2 * i - 1, 4 * odd);
        const double sign = i % 2 ? -1 : 1;
        for (const double each : {opposite, own, -sign * own, sign * opposite}) turn.push_back(static_cast<S>(each));
      }
    }
    std::vector<S> table;  // cos(πj / 4·odd)
    for (std::int64_t j = 0; j < 8 * odd; ++j) table.push_back(static_cast<S>(cosine(j, 4 * odd)));
    for (std::int64_t k = 0; k < odd; ++k) {
      for (std::int64_t i = 0; i < (odd + 1) / 2 - k % 2; ++i)
        (k % 2 ? odd_rows : even_rows).push_back(table[2 * k * (2 * i + 1) % (8 * odd)]);
      for (std::int64_t i = 0; i < odd; ++i) fourth.push_back(table[(2 * k + 1) * (2 * i + 1) % (8 * odd)]);
    }
  }
};

}  // namespace unlearn
