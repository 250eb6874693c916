// Gradients of class-wise convolution, docs/maths.md (5) to (7), one image at a time: the filtered image again,
// the gradient before the division, then one pass over the taps that adds to the padded image's gradient and
// sums each filter entry in 16 fixed lanes. Plain loops without reductions, which every compiler vectorises, so
// results do not depend on instruction set or threads. Work space: four images of floats a thread.

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <limits>

#include "classwise_conv.h"
#include "clones.h"
#include "scratch.h"

namespace unlearn {
namespace {

constexpr int lanes = 16;

template <class S>
struct Padded {
  std::int64_t height, row, size;
  Padded(const ClasswiseConv& call)
      : height(call.height + 2 * call.pad()), row(call.row + 2 * call.pad() * call.step), size(height * row) {}
};

// Calls visit(padded offset, plane offset) for each padded position that is copied from one of the plane.
template <class Visit>
void for_copied(const ClasswiseConv& call, Visit visit) {
  const std::int64_t pad = call.pad(), step = call.step, width = call.row / step;
  const std::int64_t padded_row = call.row + 2 * pad * step;
  for (std::int64_t r = 0; r < call.height + 2 * pad; ++r) {
    const std::int64_t row = source_index(r - pad, call.height, call.padding);
    if (row < 0) continue;
    for (std::int64_t c = 0; c < width + 2 * pad; ++c) {
      const std::int64_t column = source_index(c - pad, width, call.padding);
      if (column < 0) continue;
      for (std::int64_t s = 0; s < step; ++s)
        visit(r * padded_row + c * step + s, row * call.row + column * step + s);
    }
  }
}

template <class S>
UNLEARN_CLONES void add_scaled(S* to, const S* from, S weight, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] += weight * from[i];
}

template <class S>
UNLEARN_CLONES void add_products(S* sums, const S* a, const S* b, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int l = 0; l < lanes; ++l) sums[l] += a[i + l] * b[i + l];
  for (; i < count; ++i) sums[i % lanes] += a[i] * b[i];
}

template <class S>
S total(const S* sums) {
  S result = 0;
  for (int l = 0; l < lanes; ++l) result += sums[l];
  return result;
}

// (6): g becomes the gradient with respect to the filtered image y, divided by its maximum in the forward.
template <class S>
void through_division(S* g, const S* y, std::int64_t size) {
  S peak = -std::numeric_limits<S>::infinity();
  bool nan = false;
  for (std::int64_t i = 0; i < size; ++i) {
    peak = std::max(peak, y[i]);
    nan |= y[i] != y[i];
  }
  if (nan) peak = std::numeric_limits<S>::quiet_NaN();
  const S divisor = peak != 0 ? peak : S(1);
  S sums[lanes] = {};
  add_products(sums, g, y, size);
  const auto ties = std::count(y, y + size, divisor);
  const S share = ties > 0 ? total(sums) / divisor / static_cast<S>(ties) : S(0);
  for (std::int64_t i = 0; i < size; ++i) g[i] = (g[i] - (y[i] == divisor ? share : S(0))) / divisor;
}

template <class S>
void filter_plane(const ClasswiseConv& call, const S* padded, const S* weights, S* y) {
  const std::int64_t padded_row = Padded<S>(call).row;
  std::fill(y, y + call.height * call.row, S(0));
  for (std::int64_t r = 0; r < call.height; ++r)
    for (std::int64_t i = 0; i < call.k; ++i)
      for (std::int64_t j = 0; j < call.k; ++j)
        add_scaled(y + r * call.row, padded + (r + i) * padded_row + j * call.step, weights[i * call.k + j], call.row);
}

template <class S>
void taps_backward(const ClasswiseConv& call, const S* g, const S* padded, const S* weights, S* grad_padded,
                   S* sums) {
  const std::int64_t padded_row = Padded<S>(call).row;
  for (std::int64_t r = 0; r < call.height; ++r)
    for (std::int64_t i = 0; i < call.k; ++i)
      for (std::int64_t j = 0; j < call.k; ++j) {
        const std::int64_t at = (r + i) * padded_row + j * call.step, tap = i * call.k + j;
        add_scaled(grad_padded + at, g + r * call.row, weights[tap], call.row);
        add_products(sums + tap * lanes, g + r * call.row, padded + at, call.row);
      }
}

template <class S, class T>
void run(const ClasswiseConv& call, std::int64_t begin, std::int64_t end) {
  thread_local Scratch<S> padded_space, grad_space, y_space, g_space, sum_space;
  const Padded<S> padding(call);
  const std::int64_t size = call.image_size(), plane = call.height * call.row, taps = call.k * call.k;
  S* padded = padded_space.at_least(call.planes * padding.size);
  S* grad_padded = grad_space.at_least(padding.size);
  S* y = y_space.at_least(size);
  S* g = g_space.at_least(size);
  S* sums = sum_space.at_least(taps * lanes);

  for (std::int64_t n = begin; n < end; ++n) {
    const T* image = static_cast<const T*>(call.images) + n * size;
    const T* grad = static_cast<const T*>(call.grad) + n * size;
    T* out = static_cast<T*>(call.out) + n * size;
    S* filter_grad = static_cast<S*>(call.filter_grads) + n * taps;
    std::fill(filter_grad, filter_grad + taps, S(0));
    if (call.labels[n] < 0) {
      std::copy(grad, grad + size, out);
      continue;
    }
    const S* weights = static_cast<const S*>(call.filters) + call.labels[n] * taps;
    std::fill(padded, padded + call.planes * padding.size, S(0));
    for (std::int64_t p = 0; p < call.planes; ++p) {
      for_copied(call, [&](std::int64_t to, std::int64_t from) {
        padded[p * padding.size + to] = static_cast<S>(image[p * plane + from]);
      });
      if (call.rescale) filter_plane(call, padded + p * padding.size, weights, y + p * plane);
    }
    std::transform(grad, grad + size, g, [](T v) { return static_cast<S>(v); });
    if (call.rescale) through_division(g, y, size);
    std::fill(sums, sums + taps * lanes, S(0));
    for (std::int64_t p = 0; p < call.planes; ++p) {
      std::fill(grad_padded, grad_padded + padding.size, S(0));
      taps_backward(call, g + p * plane, padded + p * padding.size, weights, grad_padded, sums);
      S* folded = y + p * plane;  // the filtered image is no longer needed
      std::fill(folded, folded + plane, S(0));
      for_copied(call, [&](std::int64_t from, std::int64_t to) { folded[to] += grad_padded[from]; });
      std::transform(folded, folded + plane, out + p * plane, [](S v) { return static_cast<T>(v); });
    }
    for (std::int64_t tap = 0; tap < taps; ++tap) filter_grad[tap] = total(sums + tap * lanes);
  }
}

}  // namespace

void classwise_conv_backward_range(const ClasswiseConv& call, std::int64_t begin, std::int64_t end) {
  switch (call.type) {
    case ElementType::byte: return;  // uint8 has no gradient; refused before
    case ElementType::half: return run<float, c10::Half>(call, begin, end);
    case ElementType::bfloat16: return run<float, c10::BFloat16>(call, begin, end);
    case ElementType::single: return run<float, float>(call, begin, end);
    case ElementType::double_: return run<double, double>(call, begin, end);
  }
}

}  // namespace unlearn
