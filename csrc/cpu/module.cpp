// The CPU module: importing it registers the operators' kernels; everything else is answered here.

#include <pybind11/pybind11.h>

#include <cstdint>
#include <utility>

#include "capability.h"

namespace unlearn {
std::pair<std::int64_t, std::int64_t> bayes_error_pairs();  // of panels, in the last call: computed and skipped
}

PYBIND11_MODULE(_C, module) {
  module.def("cpu_capability", [] { return unlearn::name_of(unlearn::cpu_capability()); });
  module.def("bayes_error_pairs", unlearn::bayes_error_pairs);
}
