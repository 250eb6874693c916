#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd_avx2.h"

#define UNLEARN_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma"), always_inline)) inline

namespace unlearn {

struct Avx512 {
  using Scalar = float;
  static constexpr int width = 16;
  static constexpr int max_columns = 4;  // of 32 registers: 4×4 sums, 4 inputs, 1 weight
  __m512 v;

  UNLEARN_AVX512 static Avx512 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  UNLEARN_AVX512 void store(float* p) const { _mm512_storeu_ps(p, v); }
  UNLEARN_AVX512 static Avx512 set1(float x) { return {_mm512_set1_ps(x)}; }
  UNLEARN_AVX512 static Avx512 add(Avx512 a, Avx512 b) { return {_mm512_add_ps(a.v, b.v)}; }
  UNLEARN_AVX512 static Avx512 sub(Avx512 a, Avx512 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  UNLEARN_AVX512 static Avx512 mul(Avx512 a, Avx512 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  UNLEARN_AVX512 static Avx512 div(Avx512 a, Avx512 b) { return {_mm512_div_ps(a.v, b.v)}; }
  UNLEARN_AVX512 static Avx512 max(Avx512 a, Avx512 b) { return {_mm512_max_ps(a.v, b.v)}; }
  UNLEARN_AVX512 static Avx512 min(Avx512 a, Avx512 b) { return {_mm512_min_ps(a.v, b.v)}; }
  UNLEARN_AVX512 static Avx512 fma(Avx512 a, Avx512 b, Avx512 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  UNLEARN_AVX512 static Avx512 fnma(Avx512 a, Avx512 b, Avx512 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
  // To the nearest whole number, ties to even.
  UNLEARN_AVX512 static Avx512 round(Avx512 a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  UNLEARN_AVX512 static float hmax(Avx512 a) { return _mm512_reduce_max_ps(a.v); }
  // Holds a loaded value in a register: otherwise the compiler loads it again for every multiply-add.
  UNLEARN_AVX512 static void keep(Avx512& a) { asm("" : "+v"(a.v)); }
  // Column j of sixteen rows, from `at` on, becomes the vector at to + j·step.
  UNLEARN_AVX512 static void transpose(const float* const* from, std::int64_t at, float* to, std::int64_t step) {
    for (int row = 0; row < 16; row += 8)
      for (int column = 0; column < 16; column += 8)
        Avx2::transpose(from + row, at + column, to + column * step + row, step);
  }
  UNLEARN_AVX512 static Avx512 load_bytes(const std::uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  // Truncates, then saturates to 0…255. Values must lie within int32.
  UNLEARN_AVX512 static void store_bytes(const Avx512* a, int count, std::uint8_t* p) {
    if (count == 4) {
      const __m512i low = _mm512_packs_epi32(_mm512_cvttps_epi32(a[0].v), _mm512_cvttps_epi32(a[1].v));
      const __m512i high = _mm512_packs_epi32(_mm512_cvttps_epi32(a[2].v), _mm512_cvttps_epi32(a[3].v));
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high)));
      return;
    }
    for (int i = 0; i < count; ++i) {
      const __m512i whole = _mm512_max_epi32(_mm512_cvttps_epi32(a[i].v), _mm512_setzero_si512());
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 16 * i), _mm512_cvtusepi32_epi8(whole));
    }
  }
};

}  // namespace unlearn
