// The CPU module: importing it registers the operators' kernels; everything else is answered here.

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "capability.h"
#include "local_contrast.h"
#include "resize.h"
#include "spectral_weights.h"

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

template <class T>
T* values_of(const py::buffer_info& array, const char* name, const std::vector<py::ssize_t>& shape) {
  py::ssize_t step = sizeof(T);
  bool fits = array.shape == shape && array.format == py::format_descriptor<T>::format();
  for (std::size_t dim = shape.size(); fits && dim-- > 0; step *= shape[dim])
    fits = shape[dim] < 2 || array.strides[dim] == step;
  if (!fits) throw std::invalid_argument(std::string(name) + " is not contiguous, or of another shape or type");
  return static_cast<T*>(array.ptr);
}

void local_contrast(const py::buffer& images, const py::buffer& contrasts, std::int64_t near, std::int64_t far,
                    const py::buffer& out) {
  const py::buffer_info from = images.request(), factors = contrasts.request(), to = out.request(true);
  const auto [least, most] = std::minmax(near, far);
  if (from.ndim != 4 || least < 1 || most > unlearn::LocalContrast::furthest)
    throw std::invalid_argument("images must be [n, H, W, C], reaches 1 to 1400");
  const unlearn::LocalContrast call{values_of<std::uint8_t>(from, "images", from.shape),
                                    values_of<float>(factors, "contrasts", {from.shape[0], 2, 2}),
                                    values_of<float>(to, "out", from.shape),
                                    from.shape[0], from.shape[1], from.shape[2], from.shape[3], {near, far}};
  const py::gil_scoped_release others_run;
  unlearn::local_contrast(call);
}

void nearest_bytes(const py::buffer& values, const py::buffer& out) {
  const py::buffer_info from = values.request(), to = out.request(true);
  const float* numbers = values_of<float>(from, "values", to.shape);
  std::uint8_t* bytes = values_of<std::uint8_t>(to, "out", to.shape);
  const py::gil_scoped_release others_run;
  unlearn::nearest_bytes(numbers, bytes, from.size);
}

void spectral_weights(const py::buffer& gains, const py::buffer& matrices, const py::buffer& radii,
                      const py::buffer& rows, const py::buffer& columns, float cosine, float sine,
                      const py::buffer& out) {
  using unlearn::SpectralWeights, unlearn::Starts;
  const py::buffer_info cells = gains.request(), rings = matrices.request(), begins = radii.request(),
                        down = rows.request(), across = columns.request(), to = out.request(true);
  if (to.ndim != 4 || down.size < 1 || across.size < 1)
    throw std::invalid_argument("out must be [K, H, W, C·C], with a row and a column of cells at least");
  const py::ssize_t count = to.shape[0], elements = to.shape[3];
  const SpectralWeights call{values_of<float>(cells, "gains", {count, down.size, across.size}),
                             values_of<float>(rings, "matrices", {count, 1 + SpectralWeights::rings, elements}),
                             values_of<float>(begins, "radii", {SpectralWeights::rings}),
                             values_of<float>(to, "out", to.shape),
                             count, to.shape[1], to.shape[2], elements,
                             Starts{values_of<float>(down, "rows", {down.size}), down.size},
                             Starts{values_of<float>(across, "columns", {across.size}), across.size}, cosine, sine};
  const py::gil_scoped_release others_run;
  unlearn::spectral_weights(call);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.def("cpu_capability", [] { return unlearn::name_of(unlearn::cpu_capability()); });
  module.def("bayes_error_pairs", unlearn::bayes_error_pairs);
  module.def("local_contrast", local_contrast);
  module.def("nearest_bytes", nearest_bytes);
  module.def("resized_crop", resized_crop);
  module.def("spectral_weights", spectral_weights);
}
