// One element of class-wise convolution at a time, for the kernels that are not tiled.
#pragma once

#include "classwise_conv.h"
#include "pixels.cuh"

namespace unlearn {

// Where the element at `offset` of an image's memory lies.
struct Pixel {
  std::int64_t channel, y, x;

  __device__ Pixel(const ClasswiseConvCuda& call, std::int64_t offset) {
    const bool last = call.channel_step == 1;
    channel = last ? offset % call.channels : offset / (call.height * call.width);
    const std::int64_t at = last ? offset / call.channels : offset % (call.height * call.width);
    y = at / call.width;
    x = at % call.width;
  }
};

__device__ inline std::int64_t offset_of(const ClasswiseConvCuda& call, std::int64_t channel, std::int64_t y,
                                         std::int64_t x) {
  return channel * call.channel_step + y * call.row_step + x * call.step;
}

// Whether a position is at least `border` away from both ends.
__device__ inline bool lies_within(std::int64_t at, std::int64_t border, std::int64_t size) {
  return at >= border && at < size - border;
}

// The padded image at (channel, y, x), which may lie outside.
template <class T>
__device__ Compute<T> padded_pixel(const ClasswiseConvCuda& call, const T* image, std::int64_t channel, std::int64_t y,
                                   std::int64_t x) {
  const std::int64_t row = source_index(y, call.height, call.padding);
  const std::int64_t column = source_index(x, call.width, call.padding);
  return row < 0 || column < 0 ? Compute<T>(0) : to_float(image[offset_of(call, channel, row, column)]);
}

// Equation (1), rounded as (4) says.
template <class T>
__device__ Compute<T> filtered_pixel(const ClasswiseConvCuda& call, const T* image, const Compute<T>* filter,
                                     const Pixel& p) {
  const std::int64_t radius = call.k / 2;
  Compute<T> sum = 0;
  if (lies_within(p.y, radius, call.height) && lies_within(p.x, radius, call.width)) {
    const T* row = image + offset_of(call, p.channel, p.y - radius, p.x - radius);
    for (std::int64_t i = 0; i < call.k; ++i, row += call.row_step)
      for (std::int64_t j = 0; j < call.k; ++j)
        sum = fused(filter[i * call.k + j], to_float(row[j * call.step]), sum);
    return sum;
  }
  for (std::int64_t i = 0; i < call.k; ++i)
    for (std::int64_t j = 0; j < call.k; ++j)
      sum = fused(filter[i * call.k + j],
                  padded_pixel(call, image, p.channel, p.y + i - radius, p.x + j - radius), sum);
  return sum;
}

}  // namespace unlearn
