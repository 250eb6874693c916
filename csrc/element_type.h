#pragma once

namespace unlearn {

// The type of a tensor's elements, in every kernel. Not torch's ScalarType, so that .cu files include no PyTorch header;
// arguments.h translates.
enum class ElementType { byte, half, bfloat16, single, double_ };

}  // namespace unlearn
