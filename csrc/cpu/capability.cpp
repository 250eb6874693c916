#include "capability.h"

#include <cstdlib>
#include <stdexcept>

namespace unlearn {
namespace {

CpuCapability supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return CpuCapability::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuCapability::avx2;
#endif
  return CpuCapability::portable;
}

CpuCapability choose() {
  const char* wanted = std::getenv("UNLEARNABLE_CPU_CAPABILITY");
  if (wanted == nullptr) return supported();
  for (auto capability : {CpuCapability::portable, CpuCapability::avx2, CpuCapability::avx512})
    if (name_of(capability) == wanted && capability <= supported()) return capability;
  throw std::runtime_error("UNLEARNABLE_CPU_CAPABILITY is '" + std::string(wanted) +
                           "', but must be default, avx2 or avx512, and at most " + name_of(supported()) + " here");
}

}  // namespace

CpuCapability cpu_capability() {
  static const CpuCapability chosen = choose();
  return chosen;
}

std::string name_of(CpuCapability capability) {
  return capability == CpuCapability::avx512 ? "avx512" : capability == CpuCapability::avx2 ? "avx2" : "default";
}

}  // namespace unlearn
