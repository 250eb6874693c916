// What classwise_conv refuses of values on a GPU, where the host need not wait to hear of it. Kernels look at all of them
// when they end: a call that prints then has no registers to save. Until it stops them, no wrong label is followed.
#pragma once

#include <cassert>
#include <cstdio>

#include "classwise_conv.h"

#ifdef NDEBUG  // with which <cassert> leaves it out
extern "C" __device__ void __assert_fail(const char* what, const char* file, unsigned line,
                                         const char* function) noexcept;
#endif

namespace unlearn {

__device__ inline std::int64_t label_of(const ClasswiseConvCuda& call, std::int64_t n) {
  const std::int64_t label = call.labels[n];
  return label < call.classes ? label : -1;
}

// This thread's share of the labels and, for uint8 images, of the filters, of which all are looked at, used or not.
__device__ __noinline__ inline void check_values(const ClasswiseConvCuda& call) {
  const std::int64_t first = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t n = first; n < call.count; n += step)
    if (call.labels[n] < -1 || call.labels[n] >= call.classes) {
      printf("classwise_conv: labels[%lld] is %lld, but must lie in [-1, %lld)\n", static_cast<long long>(n),
             static_cast<long long>(call.labels[n]), static_cast<long long>(call.classes));
      __assert_fail("classwise_conv: labels out of range", __FILE__, __LINE__, "check_values");
    }
  if (call.type != ElementType::byte) return;
  const auto* filters = static_cast<const float*>(call.filters);
  for (std::int64_t i = first; i < call.classes * call.k * call.k; i += step)
    if (!(fabsf(filters[i]) <= 1e30f)) {
      printf("classwise_conv: filters must lie within ±1e30 for uint8 images, got %g\n", filters[i]);
      __assert_fail("classwise_conv: filters out of range", __FILE__, __LINE__, "check_values");
    }
}

}  // namespace unlearn
