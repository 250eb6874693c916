// Class-wise convolution on one thread, docs/maths.md (1) to (4), for any vector type V.
//
// An image is cut into tiles of rows. A tile's input rows are converted to floats in a padded window, so that
// the filter sees no border; its filtered values are kept in `filtered` and their maximum in a register; after
// the last tile everything is divided by the maximum and stored. Tiles that `filtered` cannot hold (images of
// over 160 Ki elements) are computed a second time instead, so work space stays under 1 MiB a thread.
// Each value is one chain of fused multiply-adds from 0, kernel rows outer, columns inner, ascending, whatever
// the vector type and tiling: that fixes the bytes. Moves one byte in and one out for a uint8 element.
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

namespace unlearn {
namespace UNLEARN_NAMESPACE {

constexpr std::int64_t tile_bytes = 128 * 1024, kept_bytes = 640 * 1024;

struct Tile {
  std::int64_t plane, first_row, rows, first, columns;  // `first` and `columns` count elements of a row
};

// x/255 correctly rounded, for bytes x: 1/255 as the sum of two floats.
template <class V>
UNLEARN_INLINE V unit_interval(V bytes) {
  const double inverse = 1.0 / 255;
  const float high = static_cast<float>(inverse), low = static_cast<float>(inverse - high);
  return V::fma(bytes, V::set1(high), V::mul(bytes, V::set1(low)));
}

template <class V, class T>
UNLEARN_INLINE void convert(const T* from, typename V::Scalar* to, std::int64_t count) {
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    if (count >= V::width) {
      for (std::int64_t i = 0; i + V::width < count; i += V::width) unit_interval(V::load_bytes(from + i)).store(to + i);
      unit_interval(V::load_bytes(from + count - V::width)).store(to + count - V::width);
      return;
    }
    using One = Portable<float, 1>;
    for (std::int64_t i = 0; i < count; ++i) unit_interval(One::load_bytes(from + i)).store(to + i);
  } else {
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<typename V::Scalar>(from[i]);
  }
}

// The tile's input rows with `pad` more on every side, converted; rows of the window lie `stride` apart.
template <class V, class T>
UNLEARN_TARGET void fill_window(const ClasswiseConv& call, const T* plane, const Tile& tile,
                                typename V::Scalar* window, std::int64_t stride) {
  const std::int64_t pad = call.pad(), step = call.step, width = call.row / step;
  const std::int64_t begin = tile.first - pad * step, end = tile.first + tile.columns + pad * step;
  const std::int64_t inner_begin = std::max<std::int64_t>(begin, 0), inner_end = std::min(end, call.row);
  for (std::int64_t r = 0; r < tile.rows + 2 * pad; ++r, window += stride) {
    const std::int64_t source = source_index(tile.first_row - pad + r, call.height, call.padding);
    if (source < 0) {
      std::fill(window, window + (end - begin), typename V::Scalar(0));
      continue;
    }
    const T* row = plane + source * call.row;
    convert<V>(row + inner_begin, window + (inner_begin - begin), inner_end - inner_begin);
    const auto outside = [&](std::int64_t from, std::int64_t to) UNLEARN_TARGET {
      for (std::int64_t at = from; at < to; at += step) {
        const std::int64_t pixel = source_index(at / step - (at % step < 0), width, call.padding);
        if (pixel < 0)
          std::fill(window + (at - begin), window + (at - begin) + step, typename V::Scalar(0));
        else
          convert<V>(row + pixel * step, window + (at - begin), step);
      }
    };
    outside(begin, inner_begin);
    outside(inner_end, end);
  }
}

// Taps of kernel row `weights` (one for each of rows LOW…HIGH-1 of the block) over one input row.
template <class V, int LOW, int HIGH, int N>
UNLEARN_INLINE void accumulate(V (*sum)[N], const typename V::Scalar* input, const typename V::Scalar* weights,
                               std::int64_t k, std::int64_t step) {
  for (std::int64_t j = 0; j < k; ++j, input += step) {
    V x[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      x[n] = V::load(input + n * V::width);
      V::keep(x[n]);
    }
#pragma GCC unroll 4
    for (int r = LOW; r < HIGH; ++r) {
      const V w = V::set1(weights[j - r * k]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[r][n] = V::fma(x[n], w, sum[r][n]);
    }
  }
}

// R rows of N vectors of filtered values: input row t is kernel row t - r for the block's row r.
template <class V, int R, int N>
UNLEARN_INLINE void block(const typename V::Scalar* input, std::int64_t stride, const typename V::Scalar* weights,
                          std::int64_t k, std::int64_t step, typename V::Scalar* out, std::int64_t columns, V& peak) {
  V sum[R][N];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[r][n] = V::set1(0);
  const auto* row = input;
  if constexpr (R == 4) {
    accumulate<V, 0, 1, N>(sum, row, weights, k, step);
    accumulate<V, 0, 2, N>(sum, row += stride, weights + k, k, step);
    accumulate<V, 0, 3, N>(sum, row += stride, weights + 2 * k, k, step);
    row += stride;
  }
  for (std::int64_t i = R - 1; i < k; ++i, row += stride) accumulate<V, 0, R, N>(sum, row, weights + i * k, k, step);
  if constexpr (R == 4) {
    accumulate<V, 1, 4, N>(sum, row, weights + k * k, k, step);
    accumulate<V, 2, 4, N>(sum, row += stride, weights + (k + 1) * k, k, step);
    accumulate<V, 3, 4, N>(sum, row += stride, weights + (k + 2) * k, k, step);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      sum[r][n].store(out + r * columns + n * V::width);
      peak = V::max(sum[r][n], peak);
    }
}

template <class V, int N>
UNLEARN_INLINE V three_taps(const V* x, int n, const V* w, V sum) {
  return V::fma(x[2 * N + n], w[2], V::fma(x[N + n], w[1], V::fma(x[n], w[0], sum)));
}

// k = 3 down one strip of N vectors: each input row ends one row of sums, carries one and begins one, so that
// it is loaded once and the nine weights stay in registers.
template <class V, int N>
UNLEARN_INLINE void strip3(const typename V::Scalar* input, std::int64_t stride, const V* w, std::int64_t step,
                           std::int64_t rows, typename V::Scalar* out, std::int64_t columns, V& peak) {
  V first[N], second[N];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) first[n] = second[n] = V::set1(0);
  for (std::int64_t r = -2; r < rows; ++r, input += stride) {
    V x[3 * N];
#pragma GCC unroll 12
    for (int n = 0; n < 3 * N; ++n) {
      x[n] = V::load(input + (n / N) * step + (n % N) * V::width);
      V::keep(x[n]);
    }
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const V whole = three_taps<V, N>(x, n, w + 6, second[n]);
      second[n] = three_taps<V, N>(x, n, w + 3, first[n]);
      first[n] = three_taps<V, N>(x, n, w, V::set1(0));
      if (r >= 0) {
        whole.store(out + r * columns + n * V::width);
        peak = V::max(whole, peak);
      }
    }
  }
}

// Equation (1) for one tile: the window filtered into `out`, rows `tile.columns` apart; returns the maximum.
template <class V, int N>
UNLEARN_INLINE void columns_of(const ClasswiseConv& call, const Tile& tile, const typename V::Scalar* window,
                               std::int64_t stride, const typename V::Scalar* weights, std::int64_t at,
                               typename V::Scalar* out, V& peak) {
  if constexpr (N <= 2) {
    if (call.k == 3) {
      V w[9];
#pragma GCC unroll 9
      for (int i = 0; i < 9; ++i) w[i] = V::set1(weights[i]);
      return strip3<V, N>(window + at, stride, w, call.step, tile.rows, out + at, tile.columns, peak);
    }
  }
  const int rows = tile.rows >= 4 && call.k >= 4 ? 4 : 1;
  for (std::int64_t next = 0; next < tile.rows; next += rows) {
    const std::int64_t r = std::min(next, tile.rows - rows);  // the last block overlaps and agrees
    const auto* input = window + r * stride + at;
    auto* to = out + r * tile.columns + at;
    if (rows == 4)
      block<V, 4, N>(input, stride, weights, call.k, call.step, to, tile.columns, peak);
    else
      block<V, 1, N>(input, stride, weights, call.k, call.step, to, tile.columns, peak);
  }
}

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
      if (vectors == 4) columns_of<V, 4>(call, tile, window, stride, weights, at, out, peak);
      if (vectors == 3) columns_of<V, 3>(call, tile, window, stride, weights, at, out, peak);
    }
    if constexpr (V::max_columns >= 2)
      if (vectors == 2) columns_of<V, 2>(call, tile, window, stride, weights, at, out, peak);
    if (vectors == 1) columns_of<V, 1>(call, tile, window, stride, weights, at, out, peak);
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

// How an image is cut: tiles of full rows where the window holds some, else also across.
template <class S>
struct Tiling {
  std::int64_t rows, columns, stride;

  explicit Tiling(const ClasswiseConv& call) {
    const std::int64_t room = tile_bytes / static_cast<std::int64_t>(sizeof(S)), halo = 2 * call.pad();
    const std::int64_t width = call.row / call.step;
    const std::int64_t widest = std::max<std::int64_t>(1, room / ((halo + 4) * call.step) - halo);
    const std::int64_t across = (width + widest - 1) / widest;
    columns = (width + across - 1) / across * call.step;
    stride = (columns + halo * call.step + 15) / 16 * 16;
    rows = std::clamp<std::int64_t>(room / stride - halo, 1, call.height);
  }
};

// Calls visit(tile, values, kept) for every tile of an image: its place among the kept values while they fit,
// else the one that all others share behind them.
template <class S, class Visit>
UNLEARN_INLINE void for_tiles(const ClasswiseConv& call, const Tiling<S>& tiling, S* values, std::int64_t capacity,
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

template <class V, class T>
UNLEARN_TARGET void run(const ClasswiseConv& call, std::int64_t begin, std::int64_t end) {
  using S = typename V::Scalar;
  thread_local Scratch<S> windows, kept_values;
  const Tiling<S> tiling(call);
  const std::int64_t size = call.image_size(), capacity = std::min<std::int64_t>(size, kept_bytes / sizeof(S));
  S* window = windows.at_least((tiling.rows + 2 * call.pad()) * tiling.stride);
  S* values = kept_values.at_least(capacity + (capacity < size ? tiling.rows * tiling.columns : 0));

  for (std::int64_t n = begin; n < end; ++n) {
    const T* image = static_cast<const T*>(call.images) + n * size;
    T* out = static_cast<T*>(call.out) + n * size;
    if (call.labels[n] < 0) {
      std::memcpy(out, image, size * sizeof(T));
      continue;
    }
    const S* weights = static_cast<const S*>(call.filters) + call.labels[n] * call.k * call.k;
    const auto filter = [&](const Tile& tile, S* to) UNLEARN_TARGET {
      fill_window<V>(call, image + tile.plane * call.height * call.row, tile, window, tiling.stride);
      if (tile.columns >= V::width) return filter_tile<V>(call, tile, window, tiling.stride, weights, to);
      return filter_tile<Portable<S, 1>>(call, tile, window, tiling.stride, weights, to);
    };
    S peak = -std::numeric_limits<S>::infinity();
    bool nan = false;
    for_tiles(call, tiling, values, capacity, [&](const Tile& tile, S* to, bool) UNLEARN_TARGET {
      peak = std::max(peak, filter(tile, to));
      if constexpr (!std::is_same_v<T, std::uint8_t>) nan = nan || has_nan(to, tile.rows * tile.columns);
    });
    if (nan) peak = std::numeric_limits<S>::quiet_NaN();
    const S divisor = call.rescale && peak != 0 ? peak : S(1);
    for_tiles(call, tiling, values, capacity, [&](const Tile& tile, S* from, bool kept) UNLEARN_TARGET {
      if (!kept) filter(tile, from);
      T* to = out + (tile.plane * call.height + tile.first_row) * call.row + tile.first;
      const std::int64_t runs = tile.columns == call.row ? 1 : tile.rows, length = tile.rows * tile.columns / runs;
      for (std::int64_t r = 0; r < runs; ++r)
        finish<V>(from + r * length, length, divisor, call.rescale, to + r * call.row);
    });
  }
}

}  // namespace UNLEARN_NAMESPACE
}  // namespace unlearn
