#pragma once

#include <cstdint>
#include <cstring>

namespace unlearn {

// A float's bits rounded to the upper 16, the bits of a bfloat16: to nearest, ties to even. One number's bits or a
// vector's; no NaN.
template <class Bits>
__attribute__((always_inline)) inline void round_to_bfloat16(Bits& bits) {
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff;
}

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float rounded_to_bfloat16(float x) {
  std::uint32_t bits = bits_of(x);
  round_to_bfloat16(bits);
  return float_of(bits);
}

}  // namespace unlearn
