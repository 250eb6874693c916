// Class-wise convolution on one thread, docs/maths.md (1) to (4), for any vector type V, of images [begin, end) of a
// call (classwise_conv.h):
//   images   T [N, C, H, W] or [N, H, W, C]   uint8, float16, bfloat16, float32 or float64
//   labels   int64 [N]                        a row of filters, or −1: the image is copied
//   filters  S [K, k, k]                      k odd; S is float64 for float64 images, otherwise float32
//   out      T, laid out like images
//
// An image is cut into tiles of rows. A tile's input rows are converted to floats in a padded window, so that
// the filter sees no border; its filtered values are kept in `filtered` and their maximum in a register; after
// the last tile everything is divided by the maximum and stored. Tiles that `filtered` cannot hold (images of
// over 1 Mi elements) are computed a second time instead, so work space stays under 5 MiB a thread.
// Each value is one chain of fused multiply-adds from 0, kernel rows outer, columns inner, ascending, whatever
// the vector type and tiling: that fixes the bytes. Moves one element in and one out for each; k² multiply-adds.
//
// Included once for each instruction set, with UNLEARN_TARGET naming it.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "classwise_conv.h"
#include "scratch.h"
#include "simd_portable.h"

#define UNLEARN_INLINE UNLEARN_TARGET __attribute__((always_inline)) inline

#include "classwise_conv_window.h"

namespace unlearn {
namespace UNLEARN_NAMESPACE {

// N neighbouring vectors of one row. A chain of members rather than an array, so that all stay in registers.
template <class V, int N>
struct Strip {
  using S = typename V::Scalar;
  V v;
  Strip<V, N - 1> rest;

  UNLEARN_INLINE static Strip zero() { return {V::set1(0), Strip<V, N - 1>::zero()}; }
  UNLEARN_INLINE static Strip load(const S* p) {
    V first = V::load(p);
    V::keep(first);
    return {first, Strip<V, N - 1>::load(p + V::width)};
  }
  UNLEARN_INLINE void add_tap(const Strip& x, V weight) {
    v = V::fma(x.v, weight, v);
    rest.add_tap(x.rest, weight);
  }
  UNLEARN_INLINE void store(S* p, V& peak) const {
    v.store(p);
    peak = V::max(v, peak);
    rest.store(p + V::width, peak);
  }
};

template <class V>
struct Strip<V, 0> {
  using S = typename V::Scalar;
  UNLEARN_INLINE static Strip zero() { return {}; }
  UNLEARN_INLINE static Strip load(const S*) { return {}; }
  UNLEARN_INLINE void add_tap(const Strip&, V) {}
  UNLEARN_INLINE void store(S*, V&) const {}
};

// R rows of a strip under each other.
template <class V, int R, int N>
struct Block {
  using S = typename V::Scalar;
  Strip<V, N> row;
  Block<V, R - 1, N> rest;

  UNLEARN_INLINE static Block zero() { return {Strip<V, N>::zero(), Block<V, R - 1, N>::zero()}; }
  // One tap for rows LOW to HIGH - 1; the weight of row r stands r kernel rows before that of row 0.
  template <int LOW, int HIGH>
  UNLEARN_INLINE void add_tap(const Strip<V, N>& x, const S* weight, std::int64_t k) {
    if constexpr (LOW <= 0 && HIGH > 0) row.add_tap(x, V::set1(*weight));
    if constexpr (HIGH > 1) rest.template add_tap<LOW - 1, HIGH - 1>(x, weight - k, k);
  }
  // The taps of one input row, which is kernel row `weights` for the block's row 0.
  template <int LOW, int HIGH>
  UNLEARN_INLINE void add_row(const S* input, const S* weights, std::int64_t k, std::int64_t step) {
    for (std::int64_t j = 0; j < k; ++j) add_tap<LOW, HIGH>(Strip<V, N>::load(input + j * step), weights + j, k);
  }
  UNLEARN_INLINE void store(S* out, std::int64_t columns, V& peak) const {
    row.store(out, peak);
    rest.store(out + columns, columns, peak);
  }
};

template <class V, int N>
struct Block<V, 0, N> {
  using S = typename V::Scalar;
  UNLEARN_INLINE static Block zero() { return {}; }
  template <int, int>
  UNLEARN_INLINE void add_tap(const Strip<V, N>&, const S*, std::int64_t) {}
  UNLEARN_INLINE void store(S*, std::int64_t, V&) const {}
};

// Four rows at a time, k >= 5: each input row serves all of them, but for the first and last three.
template <class V, int N>
UNLEARN_INLINE void filter_four_rows(const typename V::Scalar* input, std::int64_t stride,
                                     const typename V::Scalar* weights, std::int64_t k, std::int64_t step,
                                     typename V::Scalar* out, std::int64_t columns, V& peak) {
  auto block = Block<V, 4, N>::zero();
  block.template add_row<0, 1>(input, weights, k, step);
  block.template add_row<0, 2>(input + stride, weights + k, k, step);
  block.template add_row<0, 3>(input + 2 * stride, weights + 2 * k, k, step);
  for (std::int64_t i = 3; i < k; ++i) block.template add_row<0, 4>(input + i * stride, weights + i * k, k, step);
  block.template add_row<1, 4>(input + k * stride, weights + k * k, k, step);
  block.template add_row<2, 4>(input + (k + 1) * stride, weights + (k + 1) * k, k, step);
  block.template add_row<3, 4>(input + (k + 2) * stride, weights + (k + 2) * k, k, step);
  block.store(out, columns, peak);
}

template <class V, int N>
UNLEARN_INLINE void filter_one_row(const typename V::Scalar* input, std::int64_t stride,
                                   const typename V::Scalar* weights, std::int64_t k, std::int64_t step,
                                   typename V::Scalar* out, V& peak) {
  auto block = Block<V, 1, N>::zero();
  for (std::int64_t i = 0; i < k; ++i) block.template add_row<0, 1>(input + i * stride, weights + i * k, k, step);
  block.store(out, 0, peak);
}

template <class V>
struct NineWeights {
  V a, b, c, d, e, f, g, h, i;
  UNLEARN_INLINE explicit NineWeights(const typename V::Scalar* w)
      : a(V::set1(w[0])), b(V::set1(w[1])), c(V::set1(w[2])), d(V::set1(w[3])), e(V::set1(w[4])),
        f(V::set1(w[5])), g(V::set1(w[6])), h(V::set1(w[7])), i(V::set1(w[8])) {}
};

template <class V, int N>
UNLEARN_INLINE void add_three(Strip<V, N>& sum, const Strip<V, N> (&x)[3], V left, V middle, V right) {
  sum.add_tap(x[0], left);
  sum.add_tap(x[1], middle);
  sum.add_tap(x[2], right);
}

// k = 3 down one strip: each input row ends one row of sums, carries one on and begins one, so that it is
// loaded once and the nine weights stay in registers.
template <class V, int N>
UNLEARN_INLINE void filter_three(const typename V::Scalar* input, std::int64_t stride, const NineWeights<V>& w,
                                 std::int64_t step, std::int64_t rows, typename V::Scalar* out,
                                 std::int64_t columns, V& peak) {
  using Row = Strip<V, N>;
  Row begun = Row::zero(), carried = Row::zero();
  for (std::int64_t r = -2; r < rows; ++r, input += stride) {
    const Row x[3] = {Row::load(input), Row::load(input + step), Row::load(input + 2 * step)};
    Row whole = carried;
    add_three<V, N>(whole, x, w.g, w.h, w.i);
    carried = begun;
    add_three<V, N>(carried, x, w.d, w.e, w.f);
    begun = Row::zero();
    add_three<V, N>(begun, x, w.a, w.b, w.c);
    if (r >= 0) whole.store(out + r * columns, peak);
  }
}

// Equation (1) for the strip of N vectors that begins at element `at` of every row of the tile.
template <class V, int N>
UNLEARN_INLINE void filter_strip(const ClasswiseConv& call, const Tile& tile, const typename V::Scalar* window,
                                 std::int64_t stride, const typename V::Scalar* weights, std::int64_t at,
                                 typename V::Scalar* out, V& peak) {
  window += at;
  out += at;
  if (call.k == 3) {
    if constexpr (N <= 2)
      filter_three<V, N>(window, stride, NineWeights<V>(weights), call.step, tile.rows, out, tile.columns, peak);
    return;
  }
  if (tile.rows < 4 || call.k < 5) {
    for (std::int64_t r = 0; r < tile.rows; ++r)
      filter_one_row<V, N>(window + r * stride, stride, weights, call.k, call.step, out + r * tile.columns, peak);
    return;
  }
  for (std::int64_t next = 0; next < tile.rows; next += 4) {
    const std::int64_t r = std::min(next, tile.rows - 4);  // the last block overlaps and agrees
    filter_four_rows<V, N>(window + r * stride, stride, weights, call.k, call.step, out + r * tile.columns,
                           tile.columns, peak);
  }
}

// The whole tile; returns its maximum.
template <class V>
UNLEARN_INLINE typename V::Scalar filter_tile(const ClasswiseConv& call, const Tile& tile,
                                              const typename V::Scalar* window, std::int64_t stride,
                                              const typename V::Scalar* weights, typename V::Scalar* out) {
  V peak = V::set1(-std::numeric_limits<typename V::Scalar>::infinity());
  const std::int64_t widest = V::width * (call.k == 3 ? std::min(V::max_columns, 2) : V::max_columns);
  for (std::int64_t at = 0; at < tile.columns;) {
    const std::int64_t left = tile.columns - at;
    const int vectors = static_cast<int>(std::min((std::min(left, widest) + V::width - 1) / V::width, tile.columns / V::width));
    at = std::min(at, tile.columns - vectors * V::width);  // the last strip overlaps and agrees
    if constexpr (V::max_columns == 4) {
      if (vectors == 4) filter_strip<V, 4>(call, tile, window, stride, weights, at, out, peak);
      if (vectors == 3) filter_strip<V, 3>(call, tile, window, stride, weights, at, out, peak);
    }
    if constexpr (V::max_columns >= 2)
      if (vectors == 2) filter_strip<V, 2>(call, tile, window, stride, weights, at, out, peak);
    if (vectors == 1) filter_strip<V, 1>(call, tile, window, stride, weights, at, out, peak);
    at += vectors * V::width;
  }
  return V::hmax(peak);
}

// 255·(y/m) truncated to a byte. Where m is far from under- and overflow, the quotient is correctly rounded by
// a reciprocal and one step of Markstein's, and cannot pass 1 since m is the maximum.
template <class V, bool FAST>
UNLEARN_INLINE V scaled(V y, V divisor, V reciprocal) {
  const V scale = V::set1(255);
  if constexpr (FAST) {
    const V q = V::mul(y, reciprocal);
    return V::mul(V::fma(V::fnma(q, divisor, y), reciprocal, q), scale);
  }
  return V::min(V::max(V::mul(V::div(y, divisor), scale), V::set1(0)), scale);
}

template <class V, bool FAST>
UNLEARN_INLINE void quantise(const float* y, std::int64_t count, float divisor, std::uint8_t* out) {
  const V m = V::set1(divisor), reciprocal = V::set1(1 / divisor);
  std::int64_t i = 0;
  for (; i + 4 * V::width <= count; i += 4 * V::width) {
    V v[4];
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n) v[n] = scaled<V, FAST>(V::load(y + i + n * V::width), m, reciprocal);
    V::store_bytes(v, 4, out + i);
  }
  for (; i < count; i += V::width) {
    i = std::min(i, count - V::width);
    const V v = scaled<V, FAST>(V::load(y + i), m, reciprocal);
    V::store_bytes(&v, 1, out + i);
  }
}

// Equation (2): one run of neighbouring elements divided and stored.
template <class V, class T>
UNLEARN_INLINE void finish(const typename V::Scalar* y, std::int64_t count, typename V::Scalar divisor, bool rescale,
                           T* out) {
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    if (count < V::width) {
      quantise<Portable<float, 1>, false>(y, count, divisor, out);
    } else if (rescale && divisor > 1e-18f && divisor < 1e18f) {
      quantise<V, true>(y, count, divisor, out);
    } else {
      quantise<V, false>(y, count, divisor, out);
    }
  } else {
    for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(y[i] / divisor);
  }
}

template <class S>
UNLEARN_TARGET bool has_nan(const S* y, std::int64_t count) {
  bool found = false;
  for (std::int64_t i = 0; i < count; ++i) found |= y[i] != y[i];
  return found;
}

// Calls visit(tile, values, kept) for every tile of an image: its place among the kept values while they fit,
// otherwise the one that all others share behind them.
template <class S, class Visit>
UNLEARN_INLINE void for_tiles(const ClasswiseConv& call, const Tiling& tiling, S* values, std::int64_t capacity,
                              Visit visit) {
  std::int64_t used = 0;
  for (std::int64_t plane = 0; plane < call.planes; ++plane)
    for (std::int64_t row = 0; row < call.height; row += tiling.rows)
      for (std::int64_t first = 0; first < call.row; first += tiling.columns) {
        const Tile tile{plane, row, std::min(tiling.rows, call.height - row), first,
                        std::min(tiling.columns, call.row - first)};
        const bool kept = used + tile.rows * tile.columns <= capacity;
        visit(tile, values + (kept ? used : capacity), kept);
        if (kept) used += tile.rows * tile.columns;
      }
}

// The next image, where it is so small that it would end before the processor's own prefetching has begun.
inline void prefetch(const void* image, std::int64_t bytes) {
  for (std::int64_t line = 0; line < bytes && bytes <= 16 * 1024; line += 64)
    __builtin_prefetch(static_cast<const char*>(image) + line);
}

// One thread's way with the tiles of an image.
template <class V, class T>
struct Worker {
  using S = typename V::Scalar;
  const ClasswiseConv& call;
  const Tiling tiling;
  S* window;
  bool framed;
  const T* image = nullptr;
  T* out = nullptr;
  const S* weights = nullptr;

  UNLEARN_TARGET explicit Worker(const ClasswiseConv& given) : call(given), tiling(given) {
    thread_local Scratch<S> windows;
    const std::int64_t window_size = (tiling.rows + 2 * call.pad()) * tiling.stride;
    const std::int64_t aligned = 15 - (call.pad() * call.step + 15) % 16;  // the first pixel begins a cache line
    window = windows.at_least(window_size + aligned) + aligned;
    framed = call.padding == Padding::zeros && tiling.rows == call.height && tiling.columns == call.row;
    if (framed) std::fill(window, window + window_size, S(0));
  }

  UNLEARN_TARGET void take(std::int64_t n) {
    image = static_cast<const T*>(call.images) + n * call.image_size();
    out = static_cast<T*>(call.out) + n * call.image_size();
    weights = static_cast<const S*>(call.filters) + std::max<std::int64_t>(call.labels[n], 0) * call.k * call.k;
  }

  // Equation (1); returns the tile's maximum.
  UNLEARN_INLINE S filter(const Tile& tile, S* to) const {
    fill_window<V>(call, image + tile.plane * call.height * call.row, tile, window, tiling.stride, framed);
    if (tile.columns >= V::width) return filter_tile<V>(call, tile, window, tiling.stride, weights, to);
    return filter_tile<Portable<S, 1>>(call, tile, window, tiling.stride, weights, to);
  }

  UNLEARN_INLINE void store(const Tile& tile, const S* from, S divisor) const {
    T* to = out + (tile.plane * call.height + tile.first_row) * call.row + tile.first;
    const std::int64_t runs = tile.columns == call.row ? 1 : tile.rows, length = tile.rows * tile.columns / runs;
    for (std::int64_t r = 0; r < runs; ++r)
      finish<V>(from + r * length, length, divisor, call.rescale, to + r * call.row);
  }

  UNLEARN_TARGET static bool nan_in(const Tile& tile, const S* values) {
    return !std::is_same_v<T, std::uint8_t> && has_nan(values, tile.rows * tile.columns);
  }
};

template <class V, class T>
UNLEARN_TARGET void run_tiles(const ClasswiseConv& call, std::int64_t begin, std::int64_t end) {
  using S = typename V::Scalar;
  thread_local Scratch<S> space;
  Worker<V, T> worker(call);
  worker.take(call.image);
  S* values = space.at_least(worker.tiling.rows * worker.tiling.columns);
  for (std::int64_t index = begin; index < end; ++index) {
    const Tile tile = worker.tiling.at(call, index);
    const S peak = worker.filter(tile, values);
    if (call.peaks == nullptr)
      worker.store(tile, values, static_cast<S>(call.divisor));
    else
      call.peaks[index] = worker.nan_in(tile, values) ? std::numeric_limits<double>::quiet_NaN() : peak;
  }
}

template <class V, class T>
UNLEARN_TARGET void run(const ClasswiseConv& call, std::int64_t begin, std::int64_t end) {
  using S = typename V::Scalar;
  if (call.by_tiles) return run_tiles<V, T>(call, begin, end);
  thread_local Scratch<S> kept_values;
  Worker<V, T> worker(call);
  const std::int64_t size = call.image_size(), capacity = call.kept_values();
  S* values = kept_values.at_least(capacity + (capacity < size ? worker.tiling.rows * worker.tiling.columns : 0));

  for (std::int64_t n = begin; n < end; ++n) {
    worker.take(n);
    if (call.labels[n] < 0) {
      std::memcpy(worker.out, worker.image, size * sizeof(T));
      continue;
    }
    if (n + 1 < end) prefetch(worker.image + size, size * static_cast<std::int64_t>(sizeof(T)));
    S peak = -std::numeric_limits<S>::infinity();
    bool nan = false;
    for_tiles(call, worker.tiling, values, capacity, [&](const Tile& tile, S* to, bool) UNLEARN_TARGET {
      peak = std::max(peak, worker.filter(tile, to));
      nan = nan || worker.nan_in(tile, to);
    });
    if (nan) peak = std::numeric_limits<S>::quiet_NaN();
    const S divisor = call.rescale && peak != 0 ? peak : S(1);
    for_tiles(call, worker.tiling, values, capacity, [&](const Tile& tile, S* from, bool kept) UNLEARN_TARGET {
      if (!kept) worker.filter(tile, from);
      worker.store(tile, from, divisor);
    });
  }
}

}  // namespace UNLEARN_NAMESPACE
}  // namespace unlearn
