#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace unlearn {

// Calls range(begin, end) for pieces of [0, count), which threads take as they come: one that wakes late takes fewer,
// where with equal parts all would wait for it. The one way in which work is split among threads. Which thread takes
// which piece, and how large pieces are, must not matter to the result: a sum over indices is not to be taken across
// them, and work space of a thread must carry nothing from one piece to the next.
//
// A piece has at least `least` indices, and a 32nd of a thread's share where that is more, since a piece may have
// something to prepare. Calls from within a piece run on the thread that made them.
template <class Range>
void share_out(std::int64_t count, std::int64_t least, const Range& range) {
  if (count <= 0) return;
  const std::int64_t available = torch::stable::get_num_threads();
  const std::int64_t piece = std::max({std::int64_t{1}, least, count / (32 * std::max<std::int64_t>(available, 1))});
  const std::int64_t pieces = (count + piece - 1) / piece, threads = std::min(pieces, available);
  if (threads <= 1) return range(std::int64_t{0}, count);
  std::atomic<std::int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](std::int64_t, std::int64_t) {
    for (std::int64_t i = next++; i < pieces; i = next++) range(i * piece, std::min(count, (i + 1) * piece));
  });
}

// The same where an index costs `work` operations: pieces of at least `worth` of them, under which a thread would wake
// for too little.
template <class Range>
void share_out_work(std::int64_t count, std::int64_t work, std::int64_t worth, const Range& range) {
  share_out(count, worth / std::max<std::int64_t>(work, 1), range);
}

}  // namespace unlearn
