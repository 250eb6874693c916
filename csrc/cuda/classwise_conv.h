#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "padding.h"
#include "element_type.h"

namespace unlearn {

// One call of the operator on a GPU. Pixel (c, y, x) of an image lies at c·channel_step + y·row_step + x·step,
// which serves contiguous and channels-last images alike; all of an image's elements are contiguous.
struct ClasswiseConvCuda {
  const void* images;          // `type` [count, channels, height, width] or [count, height, width, channels]
  const void* grad;            // backward only: of the result, like `images`
  void* out;                   // forward: the result, like `images`; backward: the gradient of `images`
  void* work;                  // backward only: S [count, elements of an image]
  void* each_filter;           // backward only: S [count, parts, k, k], each block's share
  void* filter_grads;          // backward only: S [classes, k, k]
  const std::int64_t* labels;  // [count]: a row of `filters`, or negative for an image that stays as it is
  const void* filters;         // S [classes, k, k], k odd; S is double where `type` is, otherwise float
  ElementType type;            // of images, grad and out
  std::int64_t count, classes, channels, height, width, channel_step, row_step, step;
  std::int64_t k;
  Padding padding;
  bool rescale;
  cudaStream_t stream;

  UNLEARN_ON_BOTH std::int64_t image_size() const { return channels * height * width; }
};

// Each launches on call.stream and returns; errors of the launch are thrown.
void classwise_conv_forward(const ClasswiseConvCuda& call);
void classwise_conv_backward(const ClasswiseConvCuda& call);

// How many blocks share an image of the backward.
int classwise_conv_backward_parts(const ClasswiseConvCuda& call);

// The forward for the filter sizes 3, 5 and 9 and all but double; see classwise_conv_tiles.cuh.
template <int K>
void classwise_conv_tiles(const ClasswiseConvCuda& call);

}  // namespace unlearn
