#pragma once

#include <cstdint>

#include "element_type.h"

namespace unlearn {

// One call of the operator. A row of an image is `row()` bytes, and of the result as many values.
struct CropFlip {
  const std::uint8_t* images;   // [N, H, W, C]
  const std::uint8_t* images_end;  // of readable memory
  const std::int64_t* offsets;  // [B, 2]: row and column of a window's corner, each in [0, 2·padding]
  const bool* flips;            // [B]
  const std::int64_t* index;    // [B], or null: entry b is image b
  void* out;                    // [B, H, W, C] in memory
  ElementType type;             // of out: half, bfloat16, single or double_
  std::int64_t batch, height, width, channels, padding;

  std::int64_t row() const { return width * channels; }
};

// Rows [begin, end) of the B·H rows of the result, on one thread.
void crop_flip_portable(const CropFlip& call, std::int64_t begin, std::int64_t end);
void crop_flip_avx2(const CropFlip& call, std::int64_t begin, std::int64_t end);
void crop_flip_avx512(const CropFlip& call, std::int64_t begin, std::int64_t end);

}  // namespace unlearn
