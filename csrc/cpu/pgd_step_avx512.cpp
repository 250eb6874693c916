// The projected gradient step for processors with AVX-512 (F, BW, VL).

#if defined(__x86_64__)
#include <immintrin.h>

#define UNLEARN_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma,f16c")))
#define UNLEARN_NAMESPACE avx512
#define UNLEARN_F16C
#include "pgd_step_kernel.h"

namespace unlearn {

void pgd_step_avx512(const PgdStep& call, std::int64_t begin, std::int64_t end) { avx512::run_any(call, begin, end); }

}  // namespace unlearn
#endif
