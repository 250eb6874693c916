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
  UNLEARN_AVX2 static Avx2 add(Avx2 a, Avx2 b) { return {_mm256_add_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 sub(Avx2 a, Avx2 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 mul(Avx2 a, Avx2 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 div(Avx2 a, Avx2 b) { return {_mm256_div_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 max(Avx2 a, Avx2 b) { return {_mm256_max_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 min(Avx2 a, Avx2 b) { return {_mm256_min_ps(a.v, b.v)}; }
  UNLEARN_AVX2 static Avx2 fma(Avx2 a, Avx2 b, Avx2 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  UNLEARN_AVX2 static Avx2 fnma(Avx2 a, Avx2 b, Avx2 c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
  // To the nearest whole number, ties to even.
  UNLEARN_AVX2 static Avx2 round(Avx2 a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  UNLEARN_AVX2 static float hmax(Avx2 a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  // Holds a loaded value in a register: otherwise the compiler loads it again for every multiply-add.
  UNLEARN_AVX2 static void keep(Avx2& a) { asm("" : "+x"(a.v)); }
  // Column j of eight rows, from `at` on, becomes the vector at to + j·step.
  UNLEARN_AVX2 static void transpose(const float* const* from, std::int64_t at, float* to, std::int64_t step) {
    __m256 r[8], s[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(from[i] + at);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
      r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xEE);
      r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
      r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      _mm256_storeu_ps(to + i * step, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
      _mm256_storeu_ps(to + (i + 4) * step, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
  }
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
