// Calls of csrc/cuda's classwise_spectrum from Python's ctypes; what was thrown comes back as text.

#include "classwise_spectrum.h"

#include "caught.h"

extern "C" std::size_t size_of_call() { return sizeof(unlearn::ClasswiseSpectrumCuda); }

extern "C" int way(const unlearn::ClasswiseSpectrumCuda* call) {
  return static_cast<int>(unlearn::classwise_spectrum_way(*call));
}

extern "C" const char* forward(const unlearn::ClasswiseSpectrumCuda* call) {
  return caught([&] { unlearn::classwise_spectrum_forward(*call); });
}
