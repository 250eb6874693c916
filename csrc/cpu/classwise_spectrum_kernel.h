// Class-wise spectrum on one thread, docs/maths.md (S1) to (S10), for any vector type V, of images [begin, end) of a call
// (classwise_spectrum.h):
//   images   T [N, C, H, W] or [N, H, W, C]   uint8, float32 or float64
//   labels   int64 [N]                        a class, or −1: the image is copied
//   weights  S [K, H, W, C, C]                S is float64 for float64 images, otherwise float32
//   curves   S [K, C, F, 2]
//   out      T, laid out like images
//
// Three stages, through S work space of an image's size, whose lanes are columns, rows and again columns:
//   forward   a vector of columns is read, transformed down and left in the work space;
//   mix       a vector of rows is transposed, transformed across, its channels mixed by the weights, which are
//             transposed on the way, transformed back and transposed back into its place;
//   inverse   a vector of columns is transformed back, its tones are bent, and it is stored.
// Rows of channels-last images keep their channels side by side throughout. Each value is one fixed chain of operations,
// whatever the vector type and the split: that fixes the bytes. Moves one element in and one out for each, and C weights.
//
// Included once for each instruction set, with UNLEARN_TARGET naming it.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "classwise_spectrum.h"
#include "scratch.h"

#define UNLEARN_INLINE UNLEARN_TARGET __attribute__((always_inline)) inline
#define UNLEARN_LAMBDA UNLEARN_TARGET __attribute__((always_inline))

#include "cosine_transform.h"

namespace unlearn {
namespace UNLEARN_NAMESPACE {

// `count` elements as numbers, bytes as b/255, correctly rounded by 1/255 as the sum of two floats.
template <class V, class T>
UNLEARN_INLINE V load_pixels(const T* from, std::int64_t count) {
  std::array<T, V::width> some;
  if (count < V::width) {
    some.fill(T(0));
    std::copy(from, from + count, some.begin());
    from = some.data();
  }
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    const double inverse = 1.0 / 255;
    const float high = static_cast<float>(inverse), low = static_cast<float>(inverse - high);
    const V bytes = V::load_bytes(from);
    return V::fma(bytes, V::set1(high), V::mul(bytes, V::set1(low)));
  } else {
    return V::load(from);
  }
}

// (S9) for bytes: the nearest, ties to even.
template <class V, class T>
UNLEARN_INLINE void store_pixels(V value, T* to, std::int64_t count) {
  std::array<T, V::width> some;
  T* all = count < V::width ? some.data() : to;
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    value = V::min(V::max(value, V::set1(0)), V::set1(1));
    value = V::round(V::mul(value, V::set1(255)));
    V::store_bytes(&value, 1, all);
  } else {
    value.store(all);
  }
  if (count < V::width) std::copy(some.begin(), some.begin() + count, to);
}

template <class S>
struct Sine;
template <>
struct Sine<float> {
  static constexpr float s[] = {
      6.283182621002197f, -16.208669662475586f, 16.760974884033203f, -9.53079891204834f, 3.0583252906799316f};
};
template <>
struct Sine<double> {
  static constexpr double s[] = {
      6.283185307179586, -16.208961011681414, 16.769405229349395, -9.6282388356638, 3.54573860224246,
      -0.9116881678531498, 0.173199913435683, -0.02532264803576856, 0.0029385700650655998,
      -0.0002773056818582279, 2.170102081888465e-05, -1.431252716891451e-06, 8.064153538410201e-08,
      -3.926693263303666e-09};
};

// total + amplitude · sin 2π(rate · y + phase), (S10).
template <class V>
UNLEARN_INLINE V add_sine(V total, V y, V amplitude, V phase, V rate) {
  constexpr auto& s = Sine<typename V::Scalar>::s;
  constexpr int terms = static_cast<int>(std::size(s));
  const V turns = V::fma(rate, y, phase);
  const V rest = V::sub(turns, V::round(turns));
  const V square = V::mul(rest, rest);
  V polynomial = V::set1(s[terms - 1]);
  each<terms - 1>([&](auto k) UNLEARN_LAMBDA {
    polynomial = V::fma(polynomial, square, V::set1(s[terms - 2 - k]));
  });
  const V roots = V::mul(rest, V::fma(square, V::set1(-4), V::set1(1)));
  return V::fma(polynomial, V::mul(roots, amplitude), total);
}

// One thread's way with an image.
template <class V, class T>
struct SpectrumWorker {
  using S = typename V::Scalar;
  using Plan = CosinePlan<S>;
  static constexpr std::int64_t w = V::width, block = ClasswiseSpectrum::block;
  static_assert(block % w == 0);
  const ClasswiseSpectrum& call;
  const Cosine<V> down{*static_cast<const Plan*>(call.down)}, across{*static_cast<const Plan*>(call.across)};
  const std::int64_t stride = call.stride(), width = call.width(), channels = call.channels;
  const std::int64_t squared = channels * channels, plane = call.plane_size();
  S *work, *space, *rows, *matrices, *lanes;
  const T* image = nullptr;
  T* out = nullptr;
  const S *weights = nullptr, *curves = nullptr;

  UNLEARN_TARGET explicit SpectrumWorker(const ClasswiseSpectrum& given) : call(given) {
    thread_local Scratch<S> kept;
    const std::int64_t transform = 3 * w * std::max(call.height, width), all_rows = w * call.planes * stride;
    const std::int64_t own_work = call.work == nullptr ? call.work_size() : 0;
    S* all = kept.at_least(own_work + transform + all_rows + w * (w + 1) * squared + 3 * w * channels * call.sines);
    space = all;
    rows = space + transform;
    matrices = rows + all_rows;
    lanes = matrices + w * (w + 1) * squared;
    work = call.work == nullptr ? lanes + 3 * w * channels * call.sines : static_cast<S*>(call.work);
    if (call.work == nullptr) call.clear_margin(work);
  }

  UNLEARN_TARGET void take(std::int64_t n) {
    image = static_cast<const T*>(call.images) + n * call.image_size();
    out = static_cast<T*>(call.out) + n * call.image_size();
    const std::int64_t label = call.labels[n];
    if (label < 0) return;
    weights = static_cast<const S*>(call.weights) + label * call.height * width * squared;
    curves = static_cast<const S*>(call.curves) + label * channels * call.sines * 2;
  }

  // Amplitude, phase and rate, in turns, of each sine for the lanes of a vector that begins with each of the channels.
  UNLEARN_TARGET void spread_curves() {
    for (std::int64_t first = 0; first < channels; ++first)
      for (std::int64_t f = 0; f < call.sines; ++f)
        for (std::int64_t lane = 0; lane < w; ++lane) {
          const std::int64_t channel = call.step == 1 ? first : (first + lane) % channels;
          const S* curve = curves + (channel * call.sines + f) * 2;
          S* to = lanes + (first * call.sines + f) * 3 * w + lane;
          to[0] = curve[0];
          to[w] = curve[1] * static_cast<S>(0.15915494309189535);
          to[2 * w] = static_cast<S>(0.75 * static_cast<double>(f + 1));
        }
  }

  // Calls visit(plane, column, columns) for every vector of columns of pieces [begin, end).
  template <class Visit>
  UNLEARN_INLINE void for_columns(std::int64_t begin, std::int64_t end, Visit visit) const {
    const std::int64_t pieces = ClasswiseSpectrum::blocks(call.row);
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t from = piece % pieces * block, to = std::min(from + block, call.row);
      for (std::int64_t at = from; at < to; at += w) visit(piece / pieces, at, std::min(w, call.row - at));
    }
  }

  UNLEARN_TARGET void forward(std::int64_t begin, std::int64_t end) {
    for_columns(begin, end, [&](std::int64_t p, std::int64_t at, std::int64_t count) UNLEARN_TARGET {
      const T* from = image + p * call.height * call.row + at;
      for (std::int64_t i = 0; i < call.height; ++i)
        load_pixels<V>(from + i * call.row, count).store(space + i * w);
      down.template run<Kind::second>(0, call.height, space, w, work + p * plane + at, stride,
                                      space + call.height * w);
    });
  }

  // (S4)
  UNLEARN_INLINE V bent(V y, const S* curve) const {
    V total = y;
    for (std::int64_t f = 0; f < call.sines; ++f, curve += 3 * w)
      total = add_sine(total, y, V::load(curve), V::load(curve + w), V::load(curve + 2 * w));
    return total;
  }

  UNLEARN_TARGET void inverse(std::int64_t begin, std::int64_t end) {
    spread_curves();
    for_columns(begin, end, [&](std::int64_t p, std::int64_t at, std::int64_t count) UNLEARN_TARGET {
      down.template run<Kind::third>(0, call.height, work + p * plane + at, stride, space, w,
                                     space + call.height * w);
      const S* curve = lanes + (call.step == 1 ? p : at % channels) * call.sines * 3 * w;
      T* to = out + p * call.height * call.row + at;
      for (std::int64_t i = 0; i < call.height; ++i)
        store_pixels(bent(V::load(space + i * w), curve), to + i * call.row, count);
    });
  }

  // Rows [row, row + w) of the work space become vectors of `rows`, or back.
  UNLEARN_TARGET void turn(std::int64_t row, bool back) const {
    const S* from[w];
    for (std::int64_t p = 0; p < call.planes; ++p) {
      S *in_work = work + p * plane + row * stride, *turned = rows + p * stride * w;
      for (std::int64_t at = 0; at < call.row; at += w) {
        for (std::int64_t i = 0; i < w; ++i) from[i] = back ? turned + (at + i) * w : in_work + i * stride;
        if (back)
          V::transpose(from, 0, in_work + at, stride);
        else
          V::transpose(from, at, turned + at * w, w);
      }
    }
  }

  // (S3) for the coefficients that begin at x, whose channels lie `step` vectors apart.
  template <int CHANNELS>
  UNLEARN_INLINE void mix_channels(S* x, std::int64_t step, const S* matrix, V scale) const {
    const std::int64_t count = CHANNELS ? CHANNELS : channels;
    S few[w * (CHANNELS ? CHANNELS : 1)];
    S* scaled = CHANNELS ? few : matrices + w * w * squared;
    for (std::int64_t d = 0; d < count; ++d) V::mul(V::load(x + d * step * w), scale).store(scaled + d * w);
    for (std::int64_t c = 0; c < count; ++c) {
      V total = V::mul(V::load(matrix), V::load(scaled));
      for (std::int64_t d = 1; d < count; ++d)
        total = V::fma(V::load(matrix + d * w), V::load(scaled + d * w), total);
      matrix += count * w;
      total.store(x + c * step * w);
    }
  }

  // The weights of frequencies [v, v + count) of rows [row, row + w), lanes rows.
  UNLEARN_INLINE void turn_weights(std::int64_t row, std::int64_t v, std::int64_t count) const {
    const S* from[w];
    for (std::int64_t i = 0; i < w; ++i)
      from[i] = weights + (std::min(row + i, call.height - 1) * width + v) * squared;
    if (count == w) {
      for (std::int64_t at = 0; at < w * squared; at += w) V::transpose(from, at, matrices + at * w, w);
      return;
    }
    for (std::int64_t at = 0; at < count * squared; ++at)
      for (std::int64_t i = 0; i < w; ++i) matrices[at * w + i] = from[i][at];
  }

  UNLEARN_TARGET void mix_row(std::int64_t row) const {
    const std::int64_t next = call.step, channel = call.step == 1 ? stride : 1;
    S scales[w];
    const S whole = static_cast<S>(4 / static_cast<double>(call.height * width));
    std::fill(scales, scales + w, whole);
    if (row == 0) scales[0] = whole / 2;
    const V scale = V::load(scales), first = V::mul(scale, V::set1(0.5));
    for (std::int64_t v = 0; v < width; v += w) {
      const std::int64_t count = std::min(w, width - v);
      turn_weights(row, v, count);
      for (std::int64_t i = 0; i < count; ++i) {
        S* x = rows + (v + i) * next * w;
        const S* matrix = matrices + i * squared * w;
        const V factor = v + i == 0 ? first : scale;
        if (channels == 3)
          mix_channels<3>(x, channel, matrix, factor);
        else if (channels == 1)
          mix_channels<1>(x, channel, matrix, factor);
        else
          mix_channels<0>(x, channel, matrix, factor);
      }
    }
  }

  UNLEARN_TARGET void mix(std::int64_t begin, std::int64_t end) const {
    const std::int64_t next = call.step * w, channel = (call.step == 1 ? stride : 1) * w;
    for (std::int64_t row = begin * block; row < std::min(end * block, call.height); row += w) {
      turn(row, false);
      for (std::int64_t c = 0; c < channels; ++c)
        across.template run<Kind::second>(0, width, rows + c * channel, next, rows + c * channel, next, space);
      mix_row(row);
      for (std::int64_t c = 0; c < channels; ++c)
        across.template run<Kind::third>(0, width, rows + c * channel, next, rows + c * channel, next, space);
      turn(row, true);
    }
  }
};

template <class V, class T>
UNLEARN_TARGET void run(const ClasswiseSpectrum& call, std::int64_t begin, std::int64_t end) {
  using Stage = ClasswiseSpectrum::Stage;
  SpectrumWorker<V, T> worker(call);
  worker.take(call.image);
  if (call.stage == Stage::forward) return worker.forward(begin, end);
  if (call.stage == Stage::mix) return worker.mix(begin, end);
  if (call.stage == Stage::inverse) return worker.inverse(begin, end);
  for (std::int64_t n = begin; n < end; ++n) {
    worker.take(n);
    if (call.labels[n] < 0) {
      std::memcpy(worker.out, worker.image, static_cast<std::size_t>(call.image_size()) * sizeof(T));
      continue;
    }
    worker.forward(0, call.pieces(Stage::forward));
    worker.mix(0, call.pieces(Stage::mix));
    worker.inverse(0, call.pieces(Stage::inverse));
  }
}

}  // namespace UNLEARN_NAMESPACE
}  // namespace unlearn
