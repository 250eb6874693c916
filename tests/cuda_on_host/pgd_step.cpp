// Calls of csrc/cuda's pgd_step from Python's ctypes; what was thrown comes back as text.

#include "pgd_step.h"

#include "caught.h"

extern "C" std::size_t size_of_call() { return sizeof(unlearn::PgdStepCuda); }

extern "C" int parts(const unlearn::PgdStepCuda* call) { return unlearn::pgd_step_l2_parts(*call); }

extern "C" const char* step(const unlearn::PgdStepCuda* call) {
  return caught([&] { unlearn::pgd_step_l2(*call); });
}
