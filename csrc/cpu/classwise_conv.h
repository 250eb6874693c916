#pragma once

#include <algorithm>
#include <cstdint>

#include "padding.h"
#include "element_type.h"

namespace unlearn {

// One call of the operator. An image is `planes` planes of `height` rows of `row` elements, in which
// neighbouring pixels of one channel lie `step` elements apart: contiguous images have C planes and step 1,
// channels-last ones a single plane and step C, so that neither needs a change of layout.
struct ClasswiseConv {
  const void* images;          // `type` [count, planes, height, row]: bytes are 0 to 255 and stand for v/255
  const void* grad;            // backward only: of the result, like `images`
  void* out;                   // forward: the result, like `images`; backward: the gradient of `images`
  void* filter_grads;          // backward only: S [count, k, k], each image's share
  const std::int64_t* labels;  // [count]: a row of `filters`, or negative for an image that stays as it is
  const void* filters;         // S [classes, k, k], k odd; S is double where `type` is, otherwise float
  ElementType type;            // of images, grad and out
  std::int64_t count, planes, height, row, step, k;
  Padding padding;
  bool rescale;

  std::int64_t pad() const { return k / 2; }
  std::int64_t image_size() const { return planes * height * row; }
  std::int64_t scalar_size() const { return type == ElementType::double_ ? 8 : 4; }  // of S
  // 4 MiB hold most photographs, which are then filtered once.
  std::int64_t kept_values() const { return std::min(image_size(), 4 * 1024 * 1024 / scalar_size()); }

  // Forward only. One image's tiles can be shared out instead, in two calls: the first leaves every tile's maximum in
  // `peaks` (NaN where a value is), the second, in which `peaks` is null, divides by `divisor`.
  bool by_tiles = false;
  std::int64_t image = 0;
  double* peaks = nullptr;  // [tiles]
  double divisor = 1;
};

struct Tile {
  std::int64_t plane, first_row, rows, first, columns;  // `first` and `columns` count elements of a row
};

// How an image is cut: tiles of full rows where the window holds some, otherwise also across.
struct Tiling {
  std::int64_t rows, columns, stride;

  explicit Tiling(const ClasswiseConv& call) {
    const std::int64_t room = 128 * 1024 / call.scalar_size(), halo = 2 * call.pad(), width = call.row / call.step;
    const std::int64_t widest = std::max<std::int64_t>(1, room / ((halo + 4) * call.step) - halo);
    const std::int64_t across = (width + widest - 1) / widest;
    columns = (width + across - 1) / across * call.step;
    stride = (columns + halo * call.step + 15) / 16 * 16;
    rows = std::clamp<std::int64_t>(room / stride - halo, 1, call.height);
    if (rows > 4 && rows < call.height) rows -= rows % 4;  // four are filtered at a time
  }

  std::int64_t down(const ClasswiseConv& call) const { return (call.height + rows - 1) / rows; }
  std::int64_t across(const ClasswiseConv& call) const { return (call.row + columns - 1) / columns; }
  std::int64_t count(const ClasswiseConv& call) const { return call.planes * down(call) * across(call); }

  Tile at(const ClasswiseConv& call, std::int64_t index) const {
    const std::int64_t first = index % across(call) * columns, above = index / across(call);
    const std::int64_t row = above % down(call) * rows, plane = above / down(call);
    return {plane, row, std::min(rows, call.height - row), first, std::min(columns, call.row - first)};
  }
};

// Forward over images [begin, end), or those tiles of one image, on one thread.
void classwise_conv_portable(const ClasswiseConv& call, std::int64_t begin, std::int64_t end);
void classwise_conv_avx2(const ClasswiseConv& call, std::int64_t begin, std::int64_t end);
void classwise_conv_avx512(const ClasswiseConv& call, std::int64_t begin, std::int64_t end);

// Both gradients over images [begin, end), on one thread.
void classwise_conv_backward_range(const ClasswiseConv& call, std::int64_t begin, std::int64_t end);

}  // namespace unlearn
