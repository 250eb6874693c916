// The kernel for processors with AVX2 and FMA.

#if defined(__x86_64__)
#include <immintrin.h>

#define UNLEARN_HAS_AVX2
#define UNLEARN_TARGET __attribute__((target("avx2,fma")))
#define UNLEARN_NAMESPACE avx2
#include "crop_flip_kernel.h"

namespace unlearn {

void crop_flip_avx2(const CropFlip& call, std::int64_t begin, std::int64_t end) { avx2::run_any(call, begin, end); }

}  // namespace unlearn
#endif
