// The kernel in portable C++: every other processor, and float64 everywhere, there without fused multiply-adds, as the
// reference has none for float64.

#include "simd_portable.h"

#define UNLEARN_TARGET
#define UNLEARN_NAMESPACE portable
#include "classwise_spectrum_kernel.h"

namespace unlearn {

void classwise_spectrum_portable(const ClasswiseSpectrum& call, std::int64_t begin, std::int64_t end) {
  using Floats = Portable<float, 8>;
  if (call.type == ElementType::byte) return portable::run<Floats, std::uint8_t>(call, begin, end);
  if (call.type == ElementType::single) return portable::run<Floats, float>(call, begin, end);
  portable::run<Portable<double, 8, false>, double>(call, begin, end);
}

}  // namespace unlearn
