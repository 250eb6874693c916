#pragma once

#include <string>

namespace unlearn {

enum class CpuCapability { portable, avx2, avx512 };

// The best instruction set of this processor, or the lower one that UNLEARNABLE_CPU_CAPABILITY names.
CpuCapability cpu_capability();
std::string name_of(CpuCapability capability);

}  // namespace unlearn
