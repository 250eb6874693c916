// Class-wise convolution forward for every filter size and type, docs/maths.md (1) to (4): one block an image, one
// thread an element, pixels read where they lie. It computes each element twice, for the maximum and to write, so
// that no float goes to global memory. Bound by cached loads, k² an element; classwise_conv_tiles.cuh is the fast
// one. For an element: its size read once from memory (k² times from cache) and written once.
//   images   T [N, C, H, W] or [N, H, W, C]   uint8, float16, bfloat16, float32 or float64
//   labels   int64 [N]                        a row of filters, or −1: the image is copied
//   filters  S [K, k, k]                      k odd; S is float64 for float64 images, otherwise float32
//   out      T, laid out like images
// Also the check of labels and filters, which the GPU makes itself so that the host need not wait for it.

#include <algorithm>
#include <climits>
#include <cstdio>

#include "classwise_conv.h"
#include "classwise_conv_pixel.cuh"
#include "launch.h"
#include "reduce.cuh"

// Declared here since <cassert> leaves it out where NDEBUG is defined.
extern "C" __device__ void __assert_fail(const char* what, const char* file, unsigned line,
                                         const char* function) noexcept;

namespace unlearn {
namespace {

constexpr int threads = 256;

template <class T>
__global__ void __launch_bounds__(threads) classwise_conv_any(__grid_constant__ const ClasswiseConvCuda call) {
  using S = Compute<T>;
  __shared__ S scratch[32];
  const std::int64_t size = call.image_size();
  for (std::int64_t n = blockIdx.x; n < call.count; n += gridDim.x) {
    const T* image = static_cast<const T*>(call.images) + n * size;
    T* out = static_cast<T*>(call.out) + n * size;
    const std::int64_t label = call.labels[n];
    if (label < 0) {
      for (std::int64_t i = threadIdx.x; i < size; i += threads) out[i] = image[i];
      continue;
    }
    const S* filter = static_cast<const S*>(call.filters) + label * call.k * call.k;
    S peak = -INFINITY;
    if (call.rescale) {
      for (std::int64_t i = threadIdx.x; i < size; i += threads)
        peak = larger(peak, filtered_pixel(call, image, filter, Pixel(call, i)));
      peak = reduce_block(peak, scratch, [](S a, S b) { return larger(a, b); });
    }
    const Divisor<S> by(peak, call.rescale);
    for (std::int64_t i = threadIdx.x; i < size; i += threads)
      out[i] = finished<T, false>(filtered_pixel(call, image, filter, Pixel(call, i)), by);
    __syncthreads();
  }
}

// Filters are checked for uint8 images; otherwise `weights` is 0.
__global__ void check_values(__grid_constant__ const ClasswiseConvCuda call, std::int64_t weights) {
  const std::int64_t first = blockIdx.x * static_cast<std::int64_t>(threads) + threadIdx.x;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * threads;
  for (std::int64_t n = first; n < call.count; n += step)
    if (call.labels[n] < -1 || call.labels[n] >= call.classes) {
      printf("classwise_conv: labels[%lld] is %lld, but must lie in [-1, %lld)\n", static_cast<long long>(n),
             static_cast<long long>(call.labels[n]), static_cast<long long>(call.classes));
      __assert_fail("classwise_conv: labels out of range", __FILE__, __LINE__, "check_values");
    }
  const float* filters = static_cast<const float*>(call.filters);
  for (std::int64_t i = first; i < weights; i += step)
    if (!(fabsf(filters[i]) <= 1e30f)) {
      printf("classwise_conv: filters must lie within ±1e30 for uint8 images, got %g\n", filters[i]);
      __assert_fail("classwise_conv: filters out of range", __FILE__, __LINE__, "check_values");
    }
}

unsigned blocks_for(std::int64_t count) {
  return static_cast<unsigned>(std::min<std::int64_t>((count + threads - 1) / threads, 1 << 16));
}

template <class T>
void launch_any(const ClasswiseConvCuda& call) {
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(call.count, INT_MAX));
  launch(classwise_conv_any<T>, {blocks, threads, call.stream, "classwise_conv"}, call);
}

bool launch_for_size(const ClasswiseConvCuda& call) {
  if (call.type == ElementType::double_) return false;
  if (call.k == 3) classwise_conv_tiles<3>(call);
  if (call.k == 5) classwise_conv_tiles<5>(call);
  if (call.k == 9) classwise_conv_tiles<9>(call);
  return call.k == 3 || call.k == 5 || call.k == 9;
}

}  // namespace

void check_classwise_values(const ClasswiseConvCuda& call) {
  const std::int64_t weights = call.type == ElementType::byte ? call.classes * call.k * call.k : 0;
  const std::int64_t most = std::max(call.count, weights);
  if (most > 0)
    launch(check_values, {blocks_for(most), threads, call.stream, "classwise_conv: the check of values"}, call,
           weights);
}

void classwise_conv_forward(const ClasswiseConvCuda& call) {
  if (call.count == 0 || call.image_size() == 0 || launch_for_size(call)) return;
  switch (call.type) {
    case ElementType::byte: launch_any<std::uint8_t>(call); break;
    case ElementType::half: launch_any<__half>(call); break;
    case ElementType::bfloat16: launch_any<__nv_bfloat16>(call); break;
    case ElementType::single: launch_any<float>(call); break;
    case ElementType::double_: launch_any<double>(call); break;
  }
}

}  // namespace unlearn
