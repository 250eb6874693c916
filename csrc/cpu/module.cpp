// The CPU module: importing it registers the operators' kernels; what is no operator is answered here.

#include <pybind11/pybind11.h>

#include "capability.h"

PYBIND11_MODULE(_C, module) {
  module.def("cpu_capability", [] { return unlearn::name_of(unlearn::cpu_capability()); });
}
