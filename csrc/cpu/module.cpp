// The CPU module: importing it registers the operators' kernels; everything else is answered here.

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "capability.h"
#include "resize.h"

namespace unlearn {
std::pair<std::int64_t, std::int64_t> bayes_error_pairs();  // of panels, in the last call: computed and skipped
}

namespace py = pybind11;

namespace {

std::uint8_t* pixels_of(const py::buffer_info& image, const char* name) {
  const bool whole = image.ndim == 3 && image.shape[2] == 3 && image.itemsize == 1 && image.strides[2] == 1 &&
                     image.strides[1] == 3 && image.strides[0] == 3 * image.shape[1];
  if (!whole) throw std::invalid_argument(std::string(name) + " must be contiguous uint8 [H, W, 3]");
  return static_cast<std::uint8_t*>(image.ptr);
}

void resized_crop(const py::buffer& image, const py::buffer& out, std::int64_t height, std::int64_t width,
                  std::int64_t top, std::int64_t left) {
  const py::buffer_info from = image.request(), to = out.request(true);
  const unlearn::ResizedCrop call{pixels_of(from, "image"), pixels_of(to, "out"), from.shape[0], from.shape[1],
                                  height, width, top, left, to.shape[0], to.shape[1]};
  if (!call.is_valid()) throw std::invalid_argument("the window must lie within the scaled image");
  const py::gil_scoped_release others_run;
  unlearn::resized_crop(call);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.def("cpu_capability", [] { return unlearn::name_of(unlearn::cpu_capability()); });
  module.def("bayes_error_pairs", unlearn::bayes_error_pairs);
  module.def("resized_crop", resized_crop);
}
