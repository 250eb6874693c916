// The CUDA module: importing it registers the operators' kernels; everything else is answered here.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "classwise_spectrum.h"
#include "pgd_step.h"

namespace {

// pgd_step's larger samples under L2, from ops whose checks and layouts triton_kernels/pgd_step.py sees to. False, and
// nothing done, where a sample does not fit on the chip.
bool pgd_step_l2(std::uintptr_t x, std::uintptr_t grad, std::uintptr_t origin, std::uintptr_t out, int type,
                 std::int64_t count, std::int64_t size, double step_size, double eps, double lower, double upper,
                 std::uintptr_t stream) {
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<void*>(address); };
  const unlearn::PgdStepCuda call{at(x), at(grad), at(origin), at(out), static_cast<unlearn::ElementType>(type),
                                  count, size, step_size, eps, lower, upper, static_cast<cudaStream_t>(at(stream))};
  if (unlearn::pgd_step_l2_parts(call) == 0) return false;
  unlearn::pgd_step_l2(call);
  return true;
}

// Numbers as ops/cosine_in_place.py's Tables.sides has them.
unlearn::SpectrumSide side_of(const std::vector<int>& numbers) {
  unlearn::SpectrumSide side{};
  side.levels = numbers.at(0), side.leaves = numbers.at(1), side.kinds = numbers.at(2), side.out = numbers.at(3);
  if (side.levels > unlearn::SpectrumSide::most_levels) throw std::out_of_range("classwise_spectrum: too many levels");
  for (int level = 0; level < 2 * side.levels; ++level) {
    auto& pass = level < side.levels ? side.before[level] : side.after[level - side.levels];
    pass = {numbers.at(4 + 2 * level), numbers.at(5 + 2 * level)};
  }
  return side;
}

unlearn::ClasswiseSpectrumCuda sized(int channels, int height, int width, int leaf_down, int leaf_across) {
  unlearn::ClasswiseSpectrumCuda call{};
  call.channels = channels, call.height = height, call.width = width;
  call.leaf_down = leaf_down, call.leaf_across = leaf_across;
  return call;
}

// SpectrumWay as a number.
int classwise_spectrum_way(int channels, int height, int width, int leaf_down, int leaf_across) {
  return static_cast<int>(unlearn::classwise_spectrum_way(sized(channels, height, width, leaf_down, leaf_across)));
}

// What triton_kernels/classwise_spectrum.py has checked and laid out; `at_once` images fit the work space.
void classwise_spectrum(std::uintptr_t images, std::uintptr_t labels, std::uintptr_t weights, std::uintptr_t curves,
                        std::uintptr_t out, std::uintptr_t work, std::uintptr_t places, std::uintptr_t pairs,
                        std::uintptr_t factors, int type, bool last, std::int64_t count, std::int64_t classes,
                        std::int64_t at_once, int channels, int height, int width, int sines, int leaf_down,
                        int leaf_across, const std::vector<std::vector<int>>& sides, std::uintptr_t stream) {
  unlearn::ClasswiseSpectrumCuda call = sized(channels, height, width, leaf_down, leaf_across);
  call.images = reinterpret_cast<const void*>(images);
  call.labels = reinterpret_cast<const std::int64_t*>(labels);
  call.weights = reinterpret_cast<const float*>(weights);
  call.curves = reinterpret_cast<const float*>(curves);
  call.out = reinterpret_cast<void*>(out);
  call.work = reinterpret_cast<float*>(work);
  call.places = reinterpret_cast<const int*>(places);
  call.pairs = reinterpret_cast<const unsigned*>(pairs);
  call.factors = reinterpret_cast<const float*>(factors);
  call.type = static_cast<unlearn::ElementType>(type);
  call.last = last;
  call.count = count, call.classes = classes, call.at_once = at_once, call.sines = sines;
  call.down = side_of(sides.at(0)), call.across = side_of(sides.at(1));
  call.back_across = side_of(sides.at(2)), call.back_down = side_of(sides.at(3));
  call.stream = reinterpret_cast<cudaStream_t>(stream);
  unlearn::classwise_spectrum_forward(call);
}

}  // namespace

PYBIND11_MODULE(_C_cuda, module) {
  module.def("architectures", [] { return ARCHITECTURES; });
  module.def("pgd_step_l2", &pgd_step_l2);
  module.def("classwise_spectrum_way", &classwise_spectrum_way);
  module.def("classwise_spectrum", &classwise_spectrum);
}
