// Calls of csrc/cuda's classwise_conv from Python's ctypes; what was thrown comes back as text.

#include "classwise_conv.h"

#include "caught.h"

extern "C" std::size_t size_of_call() { return sizeof(unlearn::ClasswiseConvCuda); }

extern "C" const char* forward(const unlearn::ClasswiseConvCuda* call) {
  return caught([&] { unlearn::classwise_conv_forward(*call); });
}

extern "C" const char* backward(const unlearn::ClasswiseConvCuda* call) {
  return caught([&] { unlearn::classwise_conv_backward(*call); });
}

extern "C" int backward_parts(const unlearn::ClasswiseConvCuda* call) {
  return unlearn::classwise_conv_backward_parts(*call);
}
