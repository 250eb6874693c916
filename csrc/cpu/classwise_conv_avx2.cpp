// The forward kernel for processors with AVX2 and FMA.

#if defined(__x86_64__)
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "simd_avx2.h"

#define UNLEARN_TARGET __attribute__((target("avx2,fma")))
#define UNLEARN_NAMESPACE avx2
#include "classwise_conv_kernel.h"

namespace unlearn {

void classwise_conv_avx2(const ClasswiseConv& call, std::int64_t begin, std::int64_t end) {
  switch (call.type) {
    case ElementType::byte: return avx2::run<Avx2, std::uint8_t>(call, begin, end);
    case ElementType::half: return avx2::run<Avx2, c10::Half>(call, begin, end);
    case ElementType::bfloat16: return avx2::run<Avx2, c10::BFloat16>(call, begin, end);
    case ElementType::single: return avx2::run<Avx2, float>(call, begin, end);
    case ElementType::double_: return classwise_conv_portable(call, begin, end);
  }
}

}  // namespace unlearn
#endif
