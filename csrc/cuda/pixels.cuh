// Pixels of every type to and from the float (or double) that kernels compute in, docs/maths.md (3) and (4).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace unlearn {

template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

// b/255 correctly rounded for bytes b: 1/255 as the sum of two floats.
__device__ inline float unit_interval(float byte) {
  constexpr double inverse = 1.0 / 255;
  constexpr float high = static_cast<float>(inverse), low = static_cast<float>(inverse - high);
  return __fmaf_rn(byte, high, __fmul_rn(byte, low));
}

__device__ inline float to_float(std::uint8_t v) { return unit_interval(static_cast<float>(v)); }
__device__ inline float to_float(__half v) { return __half2float(v); }
__device__ inline float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float to_float(float v) { return v; }
__device__ inline double to_float(double v) { return v; }

// N neighbouring pixels, loaded 16 bytes at a time by the caller. Bytes go through the mantissa of 2^23, since
// conversion instructions run at an eighth of the rate of additions.
template <int N, class T>
__device__ inline void to_floats(const T (&from)[N], float (&to)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if constexpr (std::is_same_v<T, std::uint8_t>) {
      const unsigned word = reinterpret_cast<const unsigned*>(from)[i / 4];
      to[i] = unit_interval(__fsub_rn(__uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u + i % 4)), 8388608.f));
    } else {
      to[i] = to_float(from[i]);
    }
  }
}

__device__ inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ inline float quotient(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline double quotient(double a, double b) { return __ddiv_rn(a, b); }

// The larger one; NaN if either is.
__device__ inline float larger(float a, float b) {
#if defined(__CUDACC__)
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a != a || a > b ? a : b;
#endif
}
__device__ inline double larger(double a, double b) { return a != a || a > b ? a : b; }

// Equation (2), then (3) for bytes, by the same steps as on the CPU. `fast` holds where the maximum is far from
// under- and overflow: there the quotient is correctly rounded by a reciprocal and one step of Markstein's, and
// cannot pass 1.
template <class S>
struct Divisor {
  S value, reciprocal;
  bool fast;

  __device__ Divisor(S peak, bool rescale) : value(rescale && peak != 0 ? peak : S(1)), reciprocal(1), fast(false) {
    if constexpr (std::is_same_v<S, float>) {
      fast = rescale && value > 1e-18f && value < 1e18f;
      reciprocal = __frcp_rn(value);
    }
  }
};

template <bool FAST>
__device__ inline std::uint8_t to_byte(float y, const Divisor<float>& by) {
  float scaled;
  if constexpr (FAST) {
    const float q = __fmul_rn(y, by.reciprocal);
    scaled = fmaxf(__fmul_rn(__fmaf_rn(__fmaf_rn(-q, by.value, y), by.reciprocal, q), 255.f), 0.f);
  } else {
    scaled = fminf(fmaxf(__fmul_rn(__fdiv_rn(y, by.value), 255.f), 0.f), 255.f);
  }
  // Adding 2^23 towards zero leaves the whole part in the mantissa's last byte.
  return static_cast<std::uint8_t>(__float_as_uint(__fadd_rz(scaled, 8388608.f)));
}

template <class T, bool FAST>
__device__ inline T finished(Compute<T> y, const Divisor<Compute<T>>& by) {
  if constexpr (std::is_same_v<T, std::uint8_t>) return to_byte<FAST>(y, by);
  else if constexpr (std::is_same_v<T, __half>) return __float2half_rn(quotient(y, by.value));
  else if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(quotient(y, by.value));
  else return quotient(y, by.value);
}

}  // namespace unlearn
