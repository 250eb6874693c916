// The CUDA module: importing it registers the operators' kernels; everything else is answered here.

#include <pybind11/pybind11.h>

#include "pgd_step.h"

namespace {

// pgd_step's larger samples under L2, from ops whose checks and layouts triton_kernels/pgd_step.py sees to. False, and
// nothing done, where a sample does not fit on the chip.
bool pgd_step_l2(std::uintptr_t x, std::uintptr_t grad, std::uintptr_t origin, std::uintptr_t out, int type,
                 std::int64_t count, std::int64_t size, double step_size, double eps, double lower, double upper,
                 std::uintptr_t stream) {
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<void*>(address); };
  const unlearn::PgdStepCuda call{at(x), at(grad), at(origin), at(out), static_cast<unlearn::ElementType>(type),
                                  count, size, step_size, eps, lower, upper, static_cast<cudaStream_t>(at(stream))};
  if (unlearn::pgd_step_l2_parts(call) == 0) return false;
  unlearn::pgd_step_l2(call);
  return true;
}

}  // namespace

PYBIND11_MODULE(_C_cuda, module) {
  module.def("architectures", [] { return ARCHITECTURES; });
  module.def("pgd_step_l2", &pgd_step_l2);
}
