// Which of the kernels serve a call; classwise_spectrum_24.cu to _32.cu have them.

#include "classwise_spectrum.cuh"

namespace unlearn {

extern template void launch_images<24>(const ClasswiseSpectrumCuda&);
extern template void launch_images<28>(const ClasswiseSpectrumCuda&);
extern template void launch_images<32>(const ClasswiseSpectrumCuda&);
extern template void launch_part<24>(const ClasswiseSpectrumCuda&, Part, std::int64_t, std::int64_t);
extern template void launch_part<28>(const ClasswiseSpectrumCuda&, Part, std::int64_t, std::int64_t);
extern template void launch_part<32>(const ClasswiseSpectrumCuda&, Part, std::int64_t, std::int64_t);

namespace {

template <class F>
void with_leaf(int leaf, F f) {
  switch (leaf) {
    case 24: return f(std::integral_constant<int, 24>{});
    case 28: return f(std::integral_constant<int, 28>{});
    case 32: return f(std::integral_constant<int, 32>{});
  }
  throw std::runtime_error("classwise_spectrum: no kernel has leaves of " + std::to_string(leaf));
}

}  // namespace

SpectrumWay classwise_spectrum_way(const ClasswiseSpectrumCuda& call) {
  const std::size_t most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  constexpr std::size_t two_a_multiprocessor = 100 << 10;
  if (call.leaf_down == call.leaf_across && call.channels * std::max(call.height, call.width) <= most_threads &&
      bytes_of_an_image(call) <= std::min(most, two_a_multiprocessor))
    return SpectrumWay::image;
  return std::max(bytes_of_lanes(call, Part::columns), bytes_of_lanes(call, Part::rows)) <= most ? SpectrumWay::parts
                                                                                                 : SpectrumWay::none;
}

void classwise_spectrum_forward(const ClasswiseSpectrumCuda& call) {
  if (call.count == 0) return;
  if (classwise_spectrum_way(call) == SpectrumWay::image)
    return with_leaf(call.leaf_down, [&](auto leaf) { launch_images<leaf>(call); });
  for (std::int64_t first = 0; first < call.count; first += call.at_once) {
    const std::int64_t images = std::min(call.at_once, call.count - first);
    with_leaf(call.leaf_down, [&](auto leaf) { launch_part<leaf>(call, Part::columns, first, images); });
    with_leaf(call.leaf_across, [&](auto leaf) { launch_part<leaf>(call, Part::rows, first, images); });
    with_leaf(call.leaf_down, [&](auto leaf) { launch_part<leaf>(call, Part::columns_back, first, images); });
  }
}

}  // namespace unlearn
