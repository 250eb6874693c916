// Calls of csrc/cuda's classwise_spectrum from Python's ctypes; what was thrown comes back as text.

#include "classwise_spectrum.h"

#include "caught.h"

extern "C" std::size_t size_of_call() { return sizeof(unlearn::ClasswiseSpectrumCuda); }

extern "C" bool in_a_block(const unlearn::ClasswiseSpectrumCuda* call) {
  return unlearn::classwise_spectrum_in_a_block(*call);
}

extern "C" const char* forward(const unlearn::ClasswiseSpectrumCuda* call) {
  return caught([&] { unlearn::classwise_spectrum_forward(*call); });
}
