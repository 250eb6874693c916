// The kernel for processors with AVX-512 (F, BW, VL).

#if defined(__x86_64__)
#include <immintrin.h>

#define UNLEARN_HAS_AVX2
#define UNLEARN_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma")))
#define UNLEARN_NAMESPACE avx512
#include "crop_flip_kernel.h"

namespace unlearn {

void crop_flip_avx512(const CropFlip& call, std::int64_t begin, std::int64_t end) { avx512::run_any(call, begin, end); }

}  // namespace unlearn
#endif
