#pragma once

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
};

// Forward over images [begin, end), on one thread.
void classwise_conv_portable(const ClasswiseConv& call, std::int64_t begin, std::int64_t end);
void classwise_conv_avx2(const ClasswiseConv& call, std::int64_t begin, std::int64_t end);
void classwise_conv_avx512(const ClasswiseConv& call, std::int64_t begin, std::int64_t end);

// Both gradients over images [begin, end), on one thread.
void classwise_conv_backward_range(const ClasswiseConv& call, std::int64_t begin, std::int64_t end);

}  // namespace unlearn
