#pragma once

#include <immintrin.h>

#include <cstdint>

#define UNLEARN_AVX2 __attribute__((target("avx2,fma"), always_inline)) inline

namespace unlearn {

struct Avx2 {
  using Scalar = float;
  static constexpr int width = 8;
  static constexpr int max_columns = 2;  // of 16 registers: 4×2 sums, 2 inputs, 1 weight
  __m256 v;

  UNLEARN_AVX2 static Avx2 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  UNLEARN_AVX2 void store(float* p) const { _mm256_storeu_ps(p, v); }
  UNLEARN_AVX2 static Avx2 set1(float x) { return {_mm256_set1_ps(x)}; }
  UNLEARN_AVX2 static Avx2 mul(Avx2 a, Avx2 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 div(Avx2 a, Avx2 b) { return {_mm256_div_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 max(Avx2 a, Avx2 b) { return {_mm256_max_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 min(Avx2 a, Avx2 b) { return {_mm256_min_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 fma(Avx2 a, Avx2 b, Avx2 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  UNLEARN_AVX2 static Avx2 fnma(Avx2 a, Avx2 b, Avx2 c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
  UNLEARN_AVX2 static float hmax(Avx2 a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  // Holds a loaded value in a register: otherwise the compiler loads it again for every multiply-add.
  UNLEARN_AVX2 static void keep(Avx2& a) { asm("" : "+x"(a.v)); }
  UNLEARN_AVX2 static Avx2 load_bytes(const std::uint8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  }
  // Truncates, then saturates to 0…255. Values must lie within int32.
  UNLEARN_AVX2 static void store_bytes(const Avx2* a, int count, std::uint8_t* p) {
    if (count == 4) {
      const __m256i low = _mm256_packs_epi32(_mm256_cvttps_epi32(a[0].v), _mm256_cvttps_epi32(a[1].v));
      const __m256i high = _mm256_packs_epi32(_mm256_cvttps_epi32(a[2].v), _mm256_cvttps_epi32(a[3].v));
      const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
      const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bytes);
      return;
    }
    for (int i = 0; i < count; ++i) {
      const __m256i whole = _mm256_cvttps_epi32(a[i].v);
      const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 8 * i), _mm_packus_epi16(words, words));
    }
  }
};

}  // namespace unlearn
