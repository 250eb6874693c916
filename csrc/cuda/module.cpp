// The CUDA module: importing it registers the operators' kernels; everything else is answered here.

#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C_cuda, module) {
  module.def("architectures", [] { return ARCHITECTURES; });
}
