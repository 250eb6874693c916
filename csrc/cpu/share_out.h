#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace unlearn {

// Calls range(begin, end) for pieces of [0, count), which threads take as they come: one that wakes late takes fewer,
// where with equal parts all would wait for it. Which thread takes which piece must not matter to the result.
template <class Range>
void share_out(std::int64_t count, std::int64_t piece, const Range& range) {
  const std::int64_t pieces = (count + piece - 1) / piece;
  const std::int64_t threads = std::min<std::int64_t>(pieces, torch::stable::get_num_threads());
  if (threads <= 1) {
    if (count > 0) range(std::int64_t{0}, count);
    return;
  }
  std::atomic<std::int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    for (std::int64_t i = next++; i < pieces; i = next++) range(i * piece, std::min(count, (i + 1) * piece));
  });
}

}  // namespace unlearn
