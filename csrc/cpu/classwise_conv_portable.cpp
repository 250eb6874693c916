// The forward kernel in portable C++: every other processor, and float64 everywhere.

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "simd_portable.h"

#define UNLEARN_TARGET
#define UNLEARN_NAMESPACE portable
#include "classwise_conv_kernel.h"

namespace unlearn {

void classwise_conv_portable(const ClasswiseConv& call, std::int64_t begin, std::int64_t end) {
  using Floats = Portable<float, 8>;
  switch (call.type) {
    case ElementType::byte: return portable::run<Floats, std::uint8_t>(call, begin, end);
    case ElementType::half: return portable::run<Floats, c10::Half>(call, begin, end);
    case ElementType::bfloat16: return portable::run<Floats, c10::BFloat16>(call, begin, end);
    case ElementType::single: return portable::run<Floats, float>(call, begin, end);
    case ElementType::double_: return portable::run<Portable<double, 8>, double>(call, begin, end);
  }
}

}  // namespace unlearn
