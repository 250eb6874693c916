#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define UNLEARN_ON_BOTH __host__ __device__
#else
#define UNLEARN_ON_BOTH
#endif

namespace unlearn {

enum class Padding { zeros, reflect, replicate, circular };

// The position that a padded one is copied from, or -1 for a zero; `at` runs from -pad to size + pad - 1.
// Reflect and circular continue periodically, so that an image may be smaller than its padding.
UNLEARN_ON_BOTH inline std::int64_t source_index(std::int64_t at, std::int64_t size, Padding padding) {
  if (at >= 0 && at < size) return at;
  if (padding == Padding::zeros) return -1;
  if (padding == Padding::replicate) return at < 0 ? 0 : size - 1;
  if (padding == Padding::circular) return (at % size + size) % size;
  if (size == 1) return 0;
  while (at < 0 || at >= size) at = at < 0 ? -at : 2 * (size - 1) - at;
  return at;
}

}  // namespace unlearn
