// The projected gradient step on one thread, docs/maths.md (P1) to (P5), of parts [begin, end) of a call (pgd_step.h):
//   x, grad, origin, out   T [N, size]   float16, bfloat16, float32 or float64, one dense layout; out may be x
// S, in which it computes, is float64 for float64 and otherwise float32. A part is a sample for L2, and 1,024 elements
// otherwise.
//
// L∞ is one pass: reads x, grad and origin once, writes once, 16 bytes for a float32 element. L2 takes each sample
// in three: ‖grad‖; then t − origin, kept in float where the result will stand (half types: in work space), and its
// norm; then the result. So a sample's grad is read twice, x once and origin twice, from the cache the second time
// while three samples fit in it. Work space: one sample of floats a thread, for half types under L2 only.
// Plain loops, without reductions but over fixed strands, which every compiler vectorises: results do not depend on
// the instruction set or on threads.
//
// Included once for each instruction set, with UNLEARN_TARGET naming it.

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "bfloat16.h"
#include "pgd_step.h"
#include "scratch.h"

#define UNLEARN_INLINE UNLEARN_TARGET __attribute__((always_inline)) inline

namespace unlearn {
namespace UNLEARN_NAMESPACE {

constexpr int strands = 32;

// Half types to floats and back, rounded to nearest even.
UNLEARN_TARGET inline void convert(const c10::BFloat16* from, std::int64_t count, float* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) {
    to[i] = float_of(static_cast<std::uint32_t>(from[i].x) << 16);
  }
}

UNLEARN_TARGET inline void convert(const float* from, std::int64_t count, c10::BFloat16* __restrict to) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint32_t bits = bits_of(from[i]);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    round_to_bfloat16(bits);
    to[i].x = static_cast<std::uint16_t>(nan ? 0x7fc0 : bits >> 16);
  }
}

UNLEARN_TARGET inline void convert(const c10::Half* from, std::int64_t count, float* __restrict to) {
  std::int64_t i = 0;
#ifdef UNLEARN_F16C
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
#endif
  for (; i < count; ++i) to[i] = from[i];
}

UNLEARN_TARGET inline void convert(const float* from, std::int64_t count, c10::Half* __restrict to) {
  std::int64_t i = 0;
#ifdef UNLEARN_F16C
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
  for (; i < count; ++i) to[i] = from[i];
}

// One block of a tensor as floats: its own memory, or converted.
template <class S, class T>
class Block {
 public:
  UNLEARN_INLINE const S* read(const T* from, std::int64_t count) {
    if constexpr (std::is_same_v<S, T>) return from;
    else {
      convert(from, count, space_);
      return space_;
    }
  }

 private:
  alignas(64) S space_[std::is_same_v<S, T> ? 1 : PgdStep::block];
};

template <class S, class T>
UNLEARN_INLINE void write(const S* from, std::int64_t count, T* to) {
  if constexpr (std::is_same_v<S, T>) std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(S));
  else convert(from, count, to);
}

// NaN stays, as in torch.clamp.
template <class S>
UNLEARN_INLINE S clamped(S v, S low, S high) {
  const S above = low > v ? low : v;
  return high < above ? high : above;
}

template <class S>
struct Bounds {
  S lower, upper;
  explicit Bounds(const PgdStep& call) : lower(static_cast<S>(call.lower)), upper(static_cast<S>(call.upper)) {}
  UNLEARN_INLINE S operator()(S v) const { return clamped(v, lower, upper); }
};

template <class S, class T>
UNLEARN_TARGET void linf(const PgdStep& call, std::int64_t begin, std::int64_t end) {
  const std::int64_t total = call.count * call.size;
  const S up = static_cast<S>(call.step_size), down = -up;
  const S eps = static_cast<S>(call.eps);
  const Bounds<S> bounds(call);
  Block<S, T> x_block, g_block, o_block;
  alignas(64) S out[PgdStep::block];
  for (std::int64_t at = begin * PgdStep::block; at < std::min(end * PgdStep::block, total); at += PgdStep::block) {
    const std::int64_t count = std::min(PgdStep::block, total - at);
    const S* x = x_block.read(static_cast<const T*>(call.x) + at, count);
    const S* g = g_block.read(static_cast<const T*>(call.grad) + at, count);
    const S* o = o_block.read(static_cast<const T*>(call.origin) + at, count);
    for (std::int64_t i = 0; i < count; ++i) {
      const S along = g[i] > 0 ? up : g[i] < 0 ? down : S(0);
      out[i] = bounds(o[i] + clamped(x[i] + along - o[i], -eps, eps));
    }
    write(out, count, static_cast<T*>(call.out) + at);
  }
}

template <class S>
class SumOfSquares {
 public:
  // Whole blocks, but for a sample's last one: element i of a sample goes to strand i modulo 32.
  UNLEARN_INLINE void add(const S* v, std::int64_t count) {
    double sum[strands];
    std::copy(sum_, sum_ + strands, sum);
    std::int64_t i = 0;
    for (; i + strands <= count; i += strands)
      for (int l = 0; l < strands; ++l) sum[l] += static_cast<double>(v[i + l]) * static_cast<double>(v[i + l]);
    for (int l = 0; i + l < count; ++l) sum[l] += static_cast<double>(v[i + l]) * static_cast<double>(v[i + l]);
    std::copy(sum, sum + strands, sum_);
  }
  UNLEARN_INLINE double root() {
    for (int half = strands / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) sum_[l] += sum_[l + half];
    return std::sqrt(sum_[0]);
  }

 private:
  alignas(64) double sum_[strands] = {};
};

// (P2): what a gradient is multiplied by, twice, so that neither factor leaves the range of S.
template <class S>
struct Along {
  bool steps;
  S power, scale;

  Along(double norm, double step_size) : steps(norm > 0 && std::isfinite(norm)) {
    const double p = norm < 0x1p-100 ? 0x1p100 : norm > 0x1p100 ? 0x1p-100 : 1;
    power = static_cast<S>(p);
    scale = static_cast<S>(step_size / (norm * p));
  }
};

template <class S, class T>
UNLEARN_INLINE double norm_of(const T* sample, std::int64_t size) {
  Block<S, T> block;
  SumOfSquares<S> sum;
  for (std::int64_t at = 0; at < size; at += PgdStep::block) {
    const std::int64_t count = std::min(PgdStep::block, size - at);
    sum.add(block.read(sample + at, count), count);
  }
  return sum.root();
}

// Writes t − origin to `kept`, which may be x, and returns its norm.
template <class S, class T>
UNLEARN_INLINE double step_sample(const T* x_sample, const T* grad, const T* origin, std::int64_t size, Along<S> along,
                                  S* kept) {
  Block<S, T> x_block, g_block, o_block;
  alignas(64) S d[PgdStep::block];
  SumOfSquares<S> sum;
  for (std::int64_t at = 0; at < size; at += PgdStep::block) {
    const std::int64_t count = std::min(PgdStep::block, size - at);
    const S* x = x_block.read(x_sample + at, count);
    const S* g = g_block.read(grad + at, count);
    const S* o = o_block.read(origin + at, count);
    if (along.steps)
      for (std::int64_t i = 0; i < count; ++i) d[i] = x[i] + g[i] * along.power * along.scale - o[i];
    else
      for (std::int64_t i = 0; i < count; ++i) d[i] = x[i] + S(0) - o[i];
    sum.add(d, count);
    write(d, count, kept + at);
  }
  return sum.root();
}

template <class S, class T>
UNLEARN_INLINE void project_sample(const S* d, const T* origin, std::int64_t size, S factor, Bounds<S> bounds, T* out) {
  Block<S, T> o_block;
  alignas(64) S result[PgdStep::block];
  for (std::int64_t at = 0; at < size; at += PgdStep::block) {
    const std::int64_t count = std::min(PgdStep::block, size - at);
    const S* o = o_block.read(origin + at, count);
    for (std::int64_t i = 0; i < count; ++i) result[i] = bounds(o[i] + d[at + i] * factor);
    write(result, count, out + at);
  }
}

template <class S, class T>
UNLEARN_TARGET void l2(const PgdStep& call, std::int64_t begin, std::int64_t end) {
  thread_local Scratch<S> space;
  for (std::int64_t n = begin; n < end; ++n) {
    const T* x = static_cast<const T*>(call.x) + n * call.size;
    const T* grad = static_cast<const T*>(call.grad) + n * call.size;
    const T* origin = static_cast<const T*>(call.origin) + n * call.size;
    T* out = static_cast<T*>(call.out) + n * call.size;
    S* kept;
    if constexpr (std::is_same_v<S, T>) kept = out;
    else kept = space.at_least(call.size);
    const Along<S> along(norm_of<S, T>(grad, call.size), call.step_size);
    const double norm = step_sample<S, T>(x, grad, origin, call.size, along, kept);
    const S factor = static_cast<S>(norm <= call.eps ? 1 : call.eps / norm);
    project_sample<S, T>(kept, origin, call.size, factor, Bounds<S>(call), out);
  }
}

template <class S, class T>
UNLEARN_TARGET void run(const PgdStep& call, std::int64_t begin, std::int64_t end) {
  call.l2 ? l2<S, T>(call, begin, end) : linf<S, T>(call, begin, end);
}

UNLEARN_TARGET inline void run_any(const PgdStep& call, std::int64_t begin, std::int64_t end) {
  switch (call.type) {
    case ElementType::byte: return;  // refused before
    case ElementType::half: return run<float, c10::Half>(call, begin, end);
    case ElementType::bfloat16: return run<float, c10::BFloat16>(call, begin, end);
    case ElementType::single: return run<float, float>(call, begin, end);
    case ElementType::double_: return run<double, double>(call, begin, end);
  }
}

}  // namespace UNLEARN_NAMESPACE
}  // namespace unlearn
