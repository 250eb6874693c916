// The projected gradient step for processors with AVX2, all of which convert half types too (F16C).

#if defined(__x86_64__)
#include <immintrin.h>

#define UNLEARN_TARGET __attribute__((target("avx2,fma,f16c")))
#define UNLEARN_NAMESPACE avx2
#define UNLEARN_F16C
#include "pgd_step_kernel.h"

namespace unlearn {

void pgd_step_avx2(const PgdStep& call, std::int64_t begin, std::int64_t end) { avx2::run_any(call, begin, end); }

}  // namespace unlearn
#endif
