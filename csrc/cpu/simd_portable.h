#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

// The vector type of the kernels without intrinsics: lanes in an array, fused by std::fma, which is one
// instruction where the target has it, or rounded twice where `fused` is false. float with one lane also serves rows too
// short for a real vector.

namespace unlearn {

template <typename S, int lanes, bool fused = true>
struct Portable {
  using Scalar = S;
  static constexpr int width = lanes;
  static constexpr int max_columns = 1;
  S lane[lanes];

  template <typename F>
  static Portable make(F f) {
    Portable v;
    for (int i = 0; i < lanes; ++i) v.lane[i] = f(i);
    return v;
  }
  static Portable load(const S* p) { return make([=](int i) { return p[i]; }); }
  void store(S* p) const { std::copy(lane, lane + lanes, p); }
  static Portable set1(S x) { return make([=](int) { return x; }); }
  static Portable add(Portable a, Portable b) { return make([&](int i) { return a.lane[i] + b.lane[i]; }); }
  static Portable sub(Portable a, Portable b) { return make([&](int i) { return a.lane[i] - b.lane[i]; }); }
  static Portable mul(Portable a, Portable b) { return make([&](int i) { return a.lane[i] * b.lane[i]; }); }
  static Portable div(Portable a, Portable b) { return make([&](int i) { return a.lane[i] / b.lane[i]; }); }
  static Portable max(Portable a, Portable b) { return make([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; }); }
  static Portable min(Portable a, Portable b) { return make([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; }); }
  static Portable fma(Portable a, Portable b, Portable c) {
    return make([&](int i) { return fused ? std::fma(a.lane[i], b.lane[i], c.lane[i]) : a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static Portable fnma(Portable a, Portable b, Portable c) {
    return make([&](int i) { return fused ? std::fma(-a.lane[i], b.lane[i], c.lane[i]) : c.lane[i] - a.lane[i] * b.lane[i]; });
  }
  // To the nearest whole number, ties to even.
  static Portable round(Portable a) { return make([&](int i) { return std::nearbyint(a.lane[i]); }); }
  static S hmax(Portable a) { return *std::max_element(a.lane, a.lane + lanes); }
  static void keep(Portable&) {}
  // Column j of as many rows as there are lanes, from `at` on, becomes the vector at to + j·step.
  static void transpose(const S* const* from, std::int64_t at, S* to, std::int64_t step) {
    for (int j = 0; j < lanes; ++j)
      for (int i = 0; i < lanes; ++i) to[j * step + i] = from[i][at + j];
  }
  static Portable load_bytes(const std::uint8_t* p) {
    return make([=](int i) { return static_cast<S>(p[i]); });
  }
  // Truncates, then saturates to 0…255. Values must lie within int32.
  static void store_bytes(const Portable* v, int count, std::uint8_t* p) {
    for (int i = 0; i < count * lanes; ++i)
      p[i] = static_cast<std::uint8_t>(std::clamp(static_cast<int>(v[i / lanes].lane[i % lanes]), 0, 255));
  }
};

}  // namespace unlearn
