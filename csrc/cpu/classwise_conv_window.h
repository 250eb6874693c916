// The padded window of floats that classwise_conv_kernel.h filters, filled from stored pixels. Part of that file:
// included once for each instruction set, by it alone.

namespace unlearn {
namespace UNLEARN_NAMESPACE {

// x/255 correctly rounded, for bytes x: 1/255 as the sum of two floats.
template <class V>
UNLEARN_INLINE V unit_interval(V bytes) {
  const double inverse = 1.0 / 255;
  const float high = static_cast<float>(inverse), low = static_cast<float>(inverse - high);
  return V::fma(bytes, V::set1(high), V::mul(bytes, V::set1(low)));
}

template <class V, class T>
UNLEARN_INLINE void convert_one(const T* from, typename V::Scalar* to) {
  if constexpr (std::is_same_v<T, std::uint8_t>)
    unit_interval(Portable<float, 1>::load_bytes(from)).store(to);
  else
    *to = static_cast<typename V::Scalar>(*from);
}

template <class V, class T>
UNLEARN_INLINE void convert(const T* from, typename V::Scalar* to, std::int64_t count) {
  std::int64_t i = 0;
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    for (; i + V::width <= count; i += V::width) unit_interval(V::load_bytes(from + i)).store(to + i);
    if (i > 0 && i < count) {
      unit_interval(V::load_bytes(from + count - V::width)).store(to + count - V::width);
      return;
    }
  }
  for (; i < count; ++i) convert_one<V>(from + i, to + i);
}

// The margin of one window row: pixels [from, to), all outside of the image row.
template <class V, class T>
UNLEARN_INLINE void fill_margin(const T* row, typename V::Scalar* window, std::int64_t width, std::int64_t step,
                                Padding padding, std::int64_t from, std::int64_t to) {
  for (std::int64_t pixel = from; pixel < to; ++pixel) {
    const std::int64_t source = source_index(pixel, width, padding);
    for (std::int64_t s = 0; s < step; ++s) {
      if (source < 0)
        window[pixel * step + s] = 0;
      else
        convert_one<V>(row + source * step + s, window + pixel * step + s);
      asm volatile("");  // otherwise compilers call memset and memcpy for these few elements
    }
  }
}

// The tile's input rows with `pad` more on every side, converted; rows of the window lie `stride` apart.
// `framed` says that the window's margin holds its zeros already, since every tile is a whole plane.
template <class V, class T>
UNLEARN_TARGET void fill_window(const ClasswiseConv& call, const T* plane, const Tile& tile,
                                typename V::Scalar* window, std::int64_t stride, bool framed) {
  const std::int64_t pad = call.pad(), step = call.step, width = call.row / step;
  const std::int64_t left = tile.first / step - pad, right = (tile.first + tile.columns) / step + pad;
  const std::int64_t begin = std::max<std::int64_t>(left, 0) * step, end = std::min(right, width) * step;
  for (std::int64_t r = 0; r < tile.rows + 2 * pad; ++r, window += stride) {
    const std::int64_t source = source_index(tile.first_row - pad + r, call.height, call.padding);
    if (source < 0) {
      if (!framed) std::fill(window, window + (right - left) * step, typename V::Scalar(0));
      continue;
    }
    const T* row = plane + source * call.row;
    auto* origin = window - left * step;
    convert<V>(row + begin, origin + begin, end - begin);
    if (framed) continue;
    fill_margin<V>(row, origin, width, step, call.padding, left, std::max<std::int64_t>(left, 0));
    fill_margin<V>(row, origin, width, step, call.padding, std::min(right, width), right);
  }
}

}  // namespace UNLEARN_NAMESPACE
}  // namespace unlearn
