// Gradients of class-wise convolution, docs/maths.md (5) to (7), in four kernels: the filtered image again, to the work
// space, and there the gradient before the division, where the 1 to 8 blocks of an image are a cluster; from it every
// pixel's gradient, gathered over the padded positions that were copied from it; every tap's over the rows of a block,
// one warp each; and the taps of a class, summed over its images. No atomics: every sum has one fixed order, so that
// results repeat to the bit, and the size of an image alone decides how many blocks it has.
// For an element: image and gradient read, gradient written, and 4 floats of work space written and read; 3·k²
// multiply-adds from cached loads, which bound it; pixels further from the border than a filter reaches take them
// without tests.

#include <algorithm>
#include <climits>

#include "classwise_conv.h"
#include "classwise_conv_pixel.cuh"
#include "classwise_conv_values.cuh"
#include "launch.h"
#include "reduce.cuh"

namespace unlearn {
namespace {

constexpr int threads = 512;
constexpr std::int64_t elements_of_a_block = 1 << 14;  // at most, where 8 blocks do

// Where a block works and what it needs for sums over its cluster.
template <class S>
struct Share {
  int part, parts;
  S* block;  // 32 values
  S* own;

  __device__ std::int64_t first() const { return part * threads + threadIdx.x; }
  __device__ std::int64_t step() const { return static_cast<std::int64_t>(parts) * threads; }

  template <class Combine>
  __device__ S reduce(S value, Combine combine) const {
    value = reduce_cluster(reduce_block(value, block, combine), parts, own, combine);
    __syncthreads();
    return value;
  }

  __device__ S sum(S value) const {
    return reduce(value, [](S a, S b) { return a + b; });
  }
};

// (5) and (6): `work` becomes the gradient with respect to the filtered image. Each thread visits only its own
// elements, so that no barrier is needed but the reductions'.
template <class T>
__device__ void through_division(const ClasswiseConvCuda& call, const T* image, const T* grad,
                                 const Compute<T>* filter, Compute<T>* work, const Share<Compute<T>>& share) {
  using S = Compute<T>;
  const std::int64_t size = call.image_size();
  if (!call.rescale) {
    for (std::int64_t i = share.first(); i < size; i += share.step()) work[i] = to_float(grad[i]);
    return;
  }
  S peak = -INFINITY;
  for (std::int64_t i = share.first(); i < size; i += share.step()) {
    work[i] = filtered_pixel(call, image, filter, Pixel(call, i));
    peak = larger(peak, work[i]);
  }
  peak = share.reduce(peak, [](S a, S b) { return larger(a, b); });
  const S divisor = peak != 0 ? peak : S(1);
  S product = 0, ties = 0;
  for (std::int64_t i = share.first(); i < size; i += share.step()) {
    product += to_float(grad[i]) * work[i];
    ties += work[i] == divisor ? 1 : 0;
  }
  product = share.sum(product);
  ties = share.sum(ties);
  const S each = ties > 0 ? product / divisor / ties : S(0);
  for (std::int64_t i = share.first(); i < size; i += share.step())
    work[i] = (to_float(grad[i]) - (work[i] == divisor ? each : S(0))) / divisor;
}

// The a-th position that may be a copy of `at`: itself, then the padding on both sides; false if it is none.
__device__ inline bool copy_of(const ClasswiseConvCuda& call, std::int64_t a, std::int64_t at, std::int64_t size,
                               std::int64_t& copy) {
  const std::int64_t radius = call.k / 2;
  copy = a == 0 ? at : a <= radius ? -a : size - 1 + a - radius;
  return a == 0 || (call.padding != Padding::zeros && source_index(copy, size, call.padding) == at);
}

// The gradient with respect to padded position (y, x).
template <class S>
__device__ S padded_gradient(const ClasswiseConvCuda& call, const S* work, const S* filter, std::int64_t channel,
                             std::int64_t y, std::int64_t x) {
  const std::int64_t radius = call.k / 2;
  S sum = 0;
  for (std::int64_t i = 0; i < call.k; ++i) {
    const std::int64_t row = y + radius - i;
    if (row < 0 || row >= call.height) continue;
    for (std::int64_t j = 0; j < call.k; ++j) {
      const std::int64_t column = x + radius - j;
      if (column >= 0 && column < call.width)
        sum = fused(filter[i * call.k + j], work[offset_of(call, channel, row, column)], sum);
    }
  }
  return sum;
}

template <class S>
__device__ S pixel_gradient(const ClasswiseConvCuda& call, const S* work, const S* filter, const Pixel& p) {
  const std::int64_t radius = call.k / 2;
  S sum = 0;
  // Here no padding copies the pixel: only it has this value, and all of its taps are of the image.
  if (lies_within(p.y, radius + 1, call.height) && lies_within(p.x, radius + 1, call.width)) {
    const S* row = work + offset_of(call, p.channel, p.y + radius, p.x + radius);
    for (std::int64_t i = 0; i < call.k; ++i, row -= call.row_step)
      for (std::int64_t j = 0; j < call.k; ++j) sum = fused(filter[i * call.k + j], row[-j * call.step], sum);
    return sum;
  }
  std::int64_t y, x;
  for (std::int64_t a = 0; a < call.k; ++a)
    if (copy_of(call, a, p.y, call.height, y))
      for (std::int64_t b = 0; b < call.k; ++b)
        if (copy_of(call, b, p.x, call.width, x)) sum += padded_gradient(call, work, filter, p.channel, y, x);
  return sum;
}

// One tap's gradient over the rows from `first` to `last`, summed by one warp.
template <class T>
__device__ Compute<T> tap_gradient(const ClasswiseConvCuda& call, const T* image, const Compute<T>* work,
                                   std::int64_t tap, std::int64_t first, std::int64_t last) {
  const std::int64_t i = tap / call.k - call.k / 2, j = tap % call.k - call.k / 2;
  Compute<T> sum = 0;
  for (std::int64_t channel = 0; channel < call.channels; ++channel)
    for (std::int64_t y = first; y < last; ++y)
      for (std::int64_t x = threadIdx.x % 32; x < call.width; x += 32) {
        const bool inside = y + i >= 0 && y + i < call.height && x + j >= 0 && x + j < call.width;
        const Compute<T> pixel = inside ? to_float(image[offset_of(call, channel, y + i, x + j)])
                                        : padded_pixel(call, image, channel, y + i, x + j);
        sum = fused(work[offset_of(call, channel, y, x)], pixel, sum);
      }
  for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(~0u, sum, lane);
  return sum;
}

// One image's share of a block, and its parts of the call.
template <class T>
struct Image {
  std::int64_t label;
  const T *pixels, *grad;
  T* out;
  Compute<T>*work, *each;
  const Compute<T>* filter;

  __device__ Image(const ClasswiseConvCuda& call, std::int64_t n, int part, int parts) : label(label_of(call, n)) {
    using S = Compute<T>;
    const std::int64_t size = call.image_size(), taps = call.k * call.k;
    pixels = static_cast<const T*>(call.images) + n * size;
    grad = static_cast<const T*>(call.grad) + n * size;
    out = static_cast<T*>(call.out) + n * size;
    work = static_cast<S*>(call.work) + n * size;
    each = static_cast<S*>(call.each_filter) + (n * parts + part) * taps;
    filter = static_cast<const S*>(call.filters) + label * taps;
  }
};

template <class T>
__global__ void __launch_bounds__(threads)
    classwise_conv_backward_division(__grid_constant__ const ClasswiseConvCuda call, int parts) {
  using S = Compute<T>;
  __shared__ S scratch[32], own;
  const Share<S> share{static_cast<int>(blockIdx.x) % parts, parts, scratch, &own};
  for (std::int64_t n = blockIdx.x / parts; n < call.count; n += gridDim.x / parts) {
    const Image<T> image(call, n, share.part, parts);
    if (image.label >= 0) through_division(call, image.pixels, image.grad, image.filter, image.work, share);
  }
  check_values(call);
}

template <class T>
__global__ void __launch_bounds__(threads)
    classwise_conv_backward_pixels(__grid_constant__ const ClasswiseConvCuda call, int parts) {
  const int part = blockIdx.x % parts;
  const Divisor<Compute<T>> whole(1, false);
  for (std::int64_t n = blockIdx.x / parts; n < call.count; n += gridDim.x / parts) {
    const Image<T> image(call, n, part, parts);
    for (std::int64_t i = part * threads + threadIdx.x; i < call.image_size(); i += parts * threads)
      image.out[i] = image.label < 0 ? image.grad[i]
                                     : finished<T, false>(
                                           pixel_gradient(call, image.work, image.filter, Pixel(call, i)), whole);
  }
}

template <class T>
__global__ void __launch_bounds__(threads)
    classwise_conv_backward_taps(__grid_constant__ const ClasswiseConvCuda call, int parts) {
  const int part = blockIdx.x % parts;
  const std::int64_t first_row = call.height * part / parts, last_row = call.height * (part + 1) / parts;
  for (std::int64_t n = blockIdx.x / parts; n < call.count; n += gridDim.x / parts) {
    const Image<T> image(call, n, part, parts);
    if (image.label < 0) continue;
    for (std::int64_t tap = threadIdx.x / 32; tap < call.k * call.k; tap += threads / 32) {
      const Compute<T> sum = tap_gradient(call, image.pixels, image.work, tap, first_row, last_row);
      if (threadIdx.x % 32 == 0) image.each[tap] = sum;
    }
  }
}

// Block b sums tap b % k² of class b / k².
template <class S>
__global__ void __launch_bounds__(threads)
    classwise_conv_backward_classes(__grid_constant__ const ClasswiseConvCuda call, int parts) {
  __shared__ S scratch[32];
  const std::int64_t taps = call.k * call.k;
  for (std::int64_t b = blockIdx.x; b < call.classes * taps; b += gridDim.x) {
    S sum = 0;
    for (std::int64_t n = threadIdx.x; n < call.count * parts; n += threads)
      if (call.labels[n / parts] == b / taps) sum += static_cast<const S*>(call.each_filter)[n * taps + b % taps];
    sum = reduce_block(sum, scratch, [](S x, S y) { return x + y; });
    if (threadIdx.x == 0) static_cast<S*>(call.filter_grads)[b] = sum;
    __syncthreads();
  }
}

template <class T>
void launch_all(const ClasswiseConvCuda& call) {
  const int parts = classwise_conv_backward_parts(call);
  const auto images = static_cast<unsigned>(std::min<std::int64_t>(call.count, INT_MAX / parts));
  const auto classes = static_cast<unsigned>(std::min<std::int64_t>(call.classes * call.k * call.k, INT_MAX));
  constexpr const char* what = "classwise_conv_backward";
  launch(classwise_conv_backward_division<T>, {images, threads, call.stream, what, parts}, call, parts);
  const auto blocks = images * static_cast<unsigned>(parts);
  launch(classwise_conv_backward_pixels<T>, {blocks, threads, call.stream, what}, call, parts);
  launch(classwise_conv_backward_taps<T>, {blocks, threads, call.stream, what}, call, parts);
  if (classes > 0)
    launch(classwise_conv_backward_classes<Compute<T>>, {classes, threads, call.stream, what}, call, parts);
}

}  // namespace

int classwise_conv_backward_parts(const ClasswiseConvCuda& call) {
  if (device_attribute(cudaDevAttrComputeCapabilityMajor) < 9) return 1;  // no clusters
  int parts = 1;
  while (parts < 8 && call.image_size() > parts * elements_of_a_block) parts *= 2;
  return parts;
}

void classwise_conv_backward(const ClasswiseConvCuda& call) {
  if (call.count == 0 || call.image_size() == 0) return;
  switch (call.type) {
    case ElementType::byte: return;  // uint8 has no gradient; refused before
    case ElementType::half: launch_all<__half>(call); break;
    case ElementType::bfloat16: launch_all<__nv_bfloat16>(call); break;
    case ElementType::single: launch_all<float>(call); break;
    case ElementType::double_: launch_all<double>(call); break;
  }
}

}  // namespace unlearn
