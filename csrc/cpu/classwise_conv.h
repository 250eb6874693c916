#pragma once

#include <cstdint>

#include "padding.h"
#include "element_type.h"

namespace unlearn {

// One call of the operator. An image is `planes` planes of `height` rows of `row` elements, in which
// neighbouring pixels of one channel lie `step` elements apart: contiguous images have C planes and step 1,
// channels-last ones a single plane and step C, so that neither needs a change of layout.
struct ClasswiseConv {
  const void* images;
  const void* grad;  // backward only
  void* out;
  void* filter_grads;  // backward only: one k×k sum an image
  const std::int64_t* labels;
  const void* filters;  // double where the pixels are, else float
  ElementType type;
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
