#pragma once

#include <array>
#include <cstdint>

namespace unlearn {

// How local differences of images are bent, docs/spectral.md: x + Σ a d|d|/0.15 + b(|d| − 0.04) over two scales.
struct LocalContrast {
  static constexpr std::int64_t scales = 2;
  static constexpr std::int64_t furthest = 1400;  // a larger square's sum of bytes could pass 2³¹
  const std::uint8_t* images;  // [count, height, width, channels], read as x/255
  const float* factors;        // [count, scales, 2]: a and b
  float* out;                  // like `images`, not clamped
  std::int64_t count, height, width, channels;
  std::array<std::int64_t, scales> reach;  // pixels that surroundings go beyond their middle, as far as they lie in the image

  std::int64_t row() const { return width * channels; }
};

// Rows shared out among threads; the bytes of the NumPy reference.
void local_contrast(const LocalContrast& call);

// Numbers, within ±10⁶, as bytes: rounded to the nearest 255th, ties to even, and clamped to [0, 1].
void nearest_bytes(const float* from, std::uint8_t* to, std::int64_t size);

}  // namespace unlearn
