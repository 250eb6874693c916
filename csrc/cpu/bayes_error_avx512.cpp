// The Bayes error's kernels for processors with AVX-512 (F, BW, VL).

#if defined(__x86_64__)
#include <algorithm>

#define UNLEARN_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma")))
#define UNLEARN_NAMESPACE avx512
#include "bayes_error_kernel.h"

#include "bayes_error_avx512.h"

namespace unlearn {

BayesKernel<float> bayes_error_avx512() { return avx512::kernel_of<avx512::Singles>(); }

}  // namespace unlearn
#endif
