#pragma once

#include <algorithm>
#include <cstdint>

namespace unlearn {

enum class Padding { zeros, reflect, replicate, circular };

// The position that a padded one is copied from, or -1 for a zero; `at` runs from -pad to size + pad - 1.
// Reflect and circular continue periodically, so that an image may be smaller than its padding.
inline std::int64_t source_index(std::int64_t at, std::int64_t size, Padding padding) {
  if (at >= 0 && at < size) return at;
  if (padding == Padding::zeros) return -1;
  if (padding == Padding::replicate) return std::clamp<std::int64_t>(at, 0, size - 1);
  const std::int64_t period = padding == Padding::circular ? size : std::max<std::int64_t>(2 * (size - 1), 1);
  at = (at % period + period) % period;
  return std::min(at, padding == Padding::circular ? at : std::min(period - at, size - 1));
}

}  // namespace unlearn
