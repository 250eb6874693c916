#pragma once

#include <cstdint>

namespace unlearn {

// A window of a scaled picture.
struct ResizedCrop {
  const std::uint8_t* image;      // [in_height, in_width, 3]
  std::uint8_t* out;              // [rows, columns, 3]: of the scaled picture, from (top, left)
  std::int64_t in_height, in_width;
  std::int64_t height, width;     // of the scaled picture
  std::int64_t top, left, rows, columns;

  bool is_valid() const {
    return in_height > 0 && in_width > 0 && rows > 0 && columns > 0 && top >= 0 && left >= 0 &&
           rows <= height - top && columns <= width - left;
  }
};

// Pillow's `resize((width, height), BILINEAR)` and `crop`, byte for byte, on one thread.
void resized_crop(const ResizedCrop& call);

}  // namespace unlearn
