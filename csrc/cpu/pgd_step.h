#pragma once

#include <cstdint>

#include "element_type.h"

namespace unlearn {

// One call of the operator: four tensors of one dense layout, in which a sample is one run of `size` elements.
struct PgdStep {
  const void* x;       // `type` [count, size]
  const void* grad;    // `type` [count, size]: the loss's gradient at x
  const void* origin;  // `type` [count, size]: the ball's centre
  void* out;           // `type` [count, size]; may be x
  ElementType type;    // half, bfloat16, single or double_
  std::int64_t count, size;
  double step_size, eps, lower, upper;
  bool l2;

  static constexpr std::int64_t block = 1024;  // elements converted and computed at a time

  // What is shared out among threads: samples for L2, otherwise blocks of all elements, whatever the samples.
  std::int64_t parts() const { return l2 ? count : (count * size + block - 1) / block; }
  std::int64_t part_size() const { return l2 ? size : block; }
};

// Parts [begin, end), on one thread.
void pgd_step_portable(const PgdStep& call, std::int64_t begin, std::int64_t end);
void pgd_step_avx2(const PgdStep& call, std::int64_t begin, std::int64_t end);
void pgd_step_avx512(const PgdStep& call, std::int64_t begin, std::int64_t end);

}  // namespace unlearn
