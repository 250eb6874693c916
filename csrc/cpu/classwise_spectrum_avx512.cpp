// The kernel for processors with AVX-512 (F, BW, VL).

#if defined(__x86_64__)
#include "simd_avx512.h"

#define UNLEARN_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma")))
#define UNLEARN_NAMESPACE avx512
#include "classwise_spectrum_kernel.h"

namespace unlearn {

void classwise_spectrum_avx512(const ClasswiseSpectrum& call, std::int64_t begin, std::int64_t end) {
  if (call.type == ElementType::byte) return avx512::run<Avx512, std::uint8_t>(call, begin, end);
  if (call.type == ElementType::single) return avx512::run<Avx512, float>(call, begin, end);
  classwise_spectrum_portable(call, begin, end);
}

}  // namespace unlearn
#endif
