#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "padding.h"
#include "element_type.h"

namespace unlearn {

// One call of the operator on a GPU. Pixel (c, y, x) of an image lies at c·channel_step + y·row_step + x·step,
// which serves contiguous and channels-last images alike; all of an image's elements are contiguous.
struct ClasswiseConvCuda {
  const void* images;
  const void* grad;  // backward only
  void* out;
  void* work;          // backward only: one value for each element, float or double
  void* each_filter;   // backward only: one k×k sum an image
  void* filter_grads;  // backward only
  const std::int64_t* labels;
  const void* filters;  // double where the pixels are, else float
  ElementType type;
  std::int64_t count, classes, channels, height, width, channel_step, row_step, step;
  std::int64_t k;
  Padding padding;
  bool rescale;
  cudaStream_t stream;

  UNLEARN_ON_BOTH std::int64_t image_size() const { return channels * height * width; }
};

// Each launches on call.stream and returns; errors of the launch are thrown.
void check_classwise_values(const ClasswiseConvCuda& call);
void classwise_conv_forward(const ClasswiseConvCuda& call);
void classwise_conv_backward(const ClasswiseConvCuda& call);

// The forward for the filter sizes 3, 5 and 9 and all but double; see classwise_conv_tiles.cuh.
template <int K>
void classwise_conv_tiles(const ClasswiseConvCuda& call);

}  // namespace unlearn
