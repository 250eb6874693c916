// The kernel for processors with AVX2 and FMA.

#if defined(__x86_64__)
#include "simd_avx2.h"

#define UNLEARN_TARGET __attribute__((target("avx2,fma")))
#define UNLEARN_NAMESPACE avx2
#include "classwise_spectrum_kernel.h"

namespace unlearn {

void classwise_spectrum_avx2(const ClasswiseSpectrum& call, std::int64_t begin, std::int64_t end) {
  if (call.type == ElementType::byte) return avx2::run<Avx2, std::uint8_t>(call, begin, end);
  if (call.type == ElementType::single) return avx2::run<Avx2, float>(call, begin, end);
  classwise_spectrum_portable(call, begin, end);
}

}  // namespace unlearn
#endif
