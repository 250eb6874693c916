// Class-wise convolution forward for every filter size and type, docs/maths.md (1) to (4): one block an image, one
// thread an element, pixels read where they lie. It computes each element twice, for the maximum and to write, so
// that no float goes to global memory. Bound by cached loads, k² an element; classwise_conv_tiles.cuh is the fast
// one. For an element: its size read once from memory (k² times from cache) and written once.
//   images   T [N, C, H, W] or [N, H, W, C]   uint8, float16, bfloat16, float32 or float64
//   labels   int64 [N]                        a row of filters, or −1: the image is copied
//   filters  S [K, k, k]                      k odd; S is float64 for float64 images, otherwise float32
//   out      T, laid out like images

#include <algorithm>
#include <climits>

#include "classwise_conv.h"
#include "classwise_conv_pixel.cuh"
#include "classwise_conv_values.cuh"
#include "launch.h"
#include "reduce.cuh"

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
    const std::int64_t label = label_of(call, n);
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
  check_values(call);
}

template <class T>
void launch_any(const ClasswiseConvCuda& call) {
  const auto blocks = static_cast<unsigned>(std::clamp<std::int64_t>(call.count, 1, INT_MAX));
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

void classwise_conv_forward(const ClasswiseConvCuda& call) {
  const bool empty = call.count == 0 || call.image_size() == 0;
  if (!empty && launch_for_size(call)) return;
  switch (call.type) {
    case ElementType::byte: launch_any<std::uint8_t>(call); break;
    case ElementType::half: launch_any<__half>(call); break;
    case ElementType::bfloat16: launch_any<__nv_bfloat16>(call); break;
    case ElementType::single: launch_any<float>(call); break;
    case ElementType::double_: launch_any<double>(call); break;
  }
}

}  // namespace unlearn
