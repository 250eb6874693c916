// Random crop and flip, docs/maths.md (C1) and (C2), of rows [begin, end) of the B·H rows of the result of a call
// (crop_flip.h), on one thread:
//   images   uint8 [N, H, W, C]
//   offsets  int64 [B, 2]         row and column of each window's corner, in [0, 2·padding]
//   flips    bool [B]
//   index    int64 [B], or null   the image of each batch entry
//   out      [B, H, W, C]         float16, bfloat16, float32 or float64, in [0, 1]
// Included once for each instruction set, with UNLEARN_TARGET (a function attribute), UNLEARN_NAMESPACE and, from AVX2
// on, UNLEARN_HAS_AVX2.
//
// A few rows at a time are cut out as bytes into work space that stays in the first-level cache, and then
// converted in one loop without edges, which the compiler vectorises. Memory sees 1 byte read and one value
// written for each value; the work space's own traffic of 2 bytes stays in the cache.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "bfloat16.h"
#include "crop_flip.h"
#include "scratch.h"

namespace unlearn {
namespace UNLEARN_NAMESPACE {

constexpr std::int64_t staged_bytes = 8192;
constexpr std::int64_t slack = 32;

// byte / 255 rounded to float: 1/255 = high + low, and the first product is exact.
UNLEARN_TARGET inline float level(std::uint8_t byte) {
  constexpr float high = 257.0f / 65536, low = static_cast<float>(1 / 255.0 / 65536);
  const auto b = static_cast<float>(byte);
  return b * high + b * low;
}

// Every level is 0 or at least 1/255, so that none is subnormal as a half: a scale rebiases the exponent, and the lowest
// 13 bits are dropped, to nearest, ties to even.
struct HalfLevel {
  using Stored = std::uint16_t;
  UNLEARN_TARGET static Stored of(std::uint8_t byte) {
    const std::uint32_t bits = bits_of(level(byte) * 0x1p-112f);
    return static_cast<Stored>((bits + 0xfff + ((bits >> 13) & 1)) >> 13);
  }
};

struct BFloat16Level {
  using Stored = std::uint16_t;
  UNLEARN_TARGET static Stored of(std::uint8_t byte) {
    std::uint32_t bits = bits_of(level(byte));
    round_to_bfloat16(bits);
    return static_cast<Stored>(bits >> 16);
  }
};

template <typename Float>
struct FloatLevel {
  using Stored = Float;
  UNLEARN_TARGET static Stored of(std::uint8_t byte) { return level(byte); }
};

// Copies of whole blocks take a few instructions each where `std::memcpy` is a call; both write up to
// `slack` bytes past the end, which belong to what is written next.
UNLEARN_TARGET inline void zero(std::uint8_t* to, std::int64_t count) {
  for (std::int64_t k = 0; k < count; k += slack) std::memset(to + k, 0, slack);
}

UNLEARN_TARGET inline void copy(const std::uint8_t* from, std::int64_t count, const std::uint8_t* readable_end,
                                std::uint8_t* to) {
  if (readable_end - from < count + slack) {
    std::memcpy(to, from, static_cast<std::size_t>(count));
    return;
  }
  for (std::int64_t k = 0; k < count; k += slack) std::memcpy(to + k, from + k, slack);
}

// Writes the pixels of a row in reverse order, and up to `slack` bytes more.
class Reversal {
 public:
  UNLEARN_TARGET explicit Reversal(std::int64_t channels) : channels_(channels) {
#if defined(UNLEARN_HAS_AVX2)
    step_ = vector_bytes / channels * channels;
    alignas(16) std::uint8_t place[vector_bytes] = {};
    for (std::int64_t k = 0; k < step_; ++k)
      place[k] = static_cast<std::uint8_t>(vector_bytes - channels * (k / channels + 1) + k % channels);
    order_ = _mm_load_si128(reinterpret_cast<const __m128i*>(place));
#endif
  }

  UNLEARN_TARGET void operator()(const std::uint8_t* from, std::int64_t count, const std::uint8_t* readable,
                                 std::uint8_t* to) const {
    const std::uint8_t* end = from + count;
#if defined(UNLEARN_HAS_AVX2)
    for (; step_ > 0 && end > from && end - readable >= vector_bytes; end -= step_, to += step_) {
      const __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(end - vector_bytes));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(pixels, order_));
    }
#else
    static_cast<void>(readable);
#endif
    for (; end > from; end -= channels_, to += channels_)
      for (std::int64_t c = 0; c < channels_; ++c) to[c] = (end - channels_)[c];
  }

 private:
  std::int64_t channels_;
#if defined(UNLEARN_HAS_AVX2)
  static constexpr std::int64_t vector_bytes = 16;
  std::int64_t step_;  // whole pixels of a vector, in bytes; 0 if not one fits
  __m128i order_;
#endif
};

// Row u of batch entry b as bytes, and up to `slack` bytes more.
UNLEARN_TARGET inline void cut_row(const CropFlip& call, const Reversal& reverse, std::int64_t b, std::int64_t u,
                                   std::uint8_t* to) {
  const std::int64_t width = call.width, channels = call.channels;
  const std::int64_t from_row = u + call.offsets[2 * b] - call.padding;
  const std::int64_t shift = call.offsets[2 * b + 1] - call.padding;
  const std::int64_t first = std::max<std::int64_t>(0, shift), last = std::min(width, width + shift);
  if (from_row < 0 || from_row >= call.height || first >= last) return zero(to, call.row());
  const std::int64_t n = call.index == nullptr ? b : call.index[b];
  const std::uint8_t* from = call.images + ((n * call.height + from_row) * width + first) * channels;
  const std::int64_t inside = (last - first) * channels;
  const std::int64_t before = (call.flips[b] ? width + shift - last : first - shift) * channels;
  zero(to, before);
  if (call.flips[b])
    reverse(from, inside, call.images, to + before);
  else
    copy(from, inside, call.images_end, to + before);
  zero(to + before + inside, call.row() - before - inside);
}

// With an index the next image lies anywhere, where no processor looks ahead by itself.
UNLEARN_TARGET inline void prefetch_row(const CropFlip& call, std::int64_t b, std::int64_t u) {
  if (call.index == nullptr || b >= call.batch) return;
  const std::uint8_t* from = call.images + (call.index[b] * call.height + u) * call.row();
  for (std::int64_t k = 0; k < call.row(); k += 64) __builtin_prefetch(from + k);
}

template <typename Level>
UNLEARN_TARGET void run(const CropFlip& call, std::int64_t begin, std::int64_t end) {
  const std::int64_t row = call.row(), rows = std::max<std::int64_t>(1, staged_bytes / row);
  const Reversal reverse(call.channels);
  static thread_local Scratch<std::uint8_t> scratch;
  std::uint8_t* const staged = scratch.at_least(rows * row + slack);
  auto* out = static_cast<typename Level::Stored*>(call.out) + begin * row;
  std::int64_t b = begin / call.height, u = begin % call.height;
  while (begin < end) {
    const std::int64_t count = std::min(rows, end - begin);
    for (std::int64_t r = 0; r < count; ++r) {
      cut_row(call, reverse, b, u, staged + r * row);
      prefetch_row(call, b + 1, u);
      if (++u == call.height) u = 0, ++b;
    }
    for (std::int64_t k = 0; k < count * row; ++k) out[k] = Level::of(staged[k]);
    out += count * row;
    begin += count;
  }
}

UNLEARN_TARGET inline void run_any(const CropFlip& call, std::int64_t begin, std::int64_t end) {
  switch (call.type) {
    case ElementType::byte: return;  // refused before
    case ElementType::half: return run<HalfLevel>(call, begin, end);
    case ElementType::bfloat16: return run<BFloat16Level>(call, begin, end);
    case ElementType::single: return run<FloatLevel<float>>(call, begin, end);
    case ElementType::double_: return run<FloatLevel<double>>(call, begin, end);
  }
}

}  // namespace UNLEARN_NAMESPACE
}  // namespace unlearn
