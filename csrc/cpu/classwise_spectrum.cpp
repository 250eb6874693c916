// torch.ops.unlearn.classwise_spectrum on the CPU: arguments checked, images, or parts of them, shared out among threads.

#include "classwise_spectrum.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "arguments.h"
#include "capability.h"
#include "share_out.h"

namespace unlearn {
namespace {

using torch::headeronly::MemoryFormat;

constexpr const char* op = "classwise_spectrum: ";

void check_arguments(const Tensor& images, const Tensor& labels, const Tensor& weights, const Tensor& curves) {
  check_layout(op, "images", images, images.dim() == 4, "[N, C, H, W]");
  check_dtype(op, "images", images.scalar_type(), {ScalarType::Byte, ScalarType::Float, ScalarType::Double});
  check_labels(op, labels, images.size(0), "images");
  const std::string channels = std::to_string(images.size(1)), height = std::to_string(images.size(2)),
                    width = std::to_string(images.size(3));
  const bool weights_fit = weights.dim() == 5 && weights.size(1) == images.size(2) &&
                           weights.size(2) == images.size(3) && weights.size(3) == images.size(1) &&
                           weights.size(4) == images.size(1);
  check(weights_fit, op, "weights must be [K, H, W, C, C], here [K, ", height, ", ", width, ", ", channels, ", ",
        channels, "], got ", shape_of(weights));
  const bool curves_fit = curves.dim() == 4 && curves.size(0) == weights.size(0) &&
                          curves.size(1) == images.size(1) && curves.size(3) == 2;
  check(curves_fit, op, "curves must be [K, C, F, 2], here [", weights.size(0), ", ", channels, ", F, 2], got ",
        shape_of(curves));
  for (const auto& [name, t] : {std::pair{"weights", &weights}, std::pair{"curves", &curves}}) {
    if (images.scalar_type() == ScalarType::Double)
      check_dtype(op, name, t->scalar_type(), {ScalarType::Float, ScalarType::Double});
    else
      check_dtype(op, name, t->scalar_type(), {ScalarType::Float});
  }
  check_one_device(op, {{"images", &images}, {"labels", &labels}, {"weights", &weights}, {"curves", &curves}});
}

MemoryFormat memory_format(const Tensor& images) {
  const bool last = has_layout(images, {1, 3, 2, 0}) && !has_layout(images, {3, 2, 1, 0});
  return last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor empty_result(const Tensor& t) {
  const std::array<std::int64_t, 4> shape{t.size(0), t.size(1), t.size(2), t.size(3)};
  return torch::stable::empty({shape.data(), 4}, t.scalar_type(), std::nullopt, t.device(), std::nullopt,
                              memory_format(t));
}

// Those of the classes that occur, which are a small part of what is read with them anyway.
void check_range(const char* name, const Tensor& t, const Tensor& labels) {
  const std::int64_t classes = t.size(0), each = classes ? t.numel() / classes : 0;
  std::vector<char> used(static_cast<std::size_t>(classes));
  for (std::int64_t n = 0; n < labels.numel(); ++n)
    if (const std::int64_t label = labels.const_data_ptr<std::int64_t>()[n]; label >= 0)
      used[static_cast<std::size_t>(label)] = 1;
  std::atomic<bool> good{true};
  share_out_work(classes, each, 1 << 20, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      if (!used[static_cast<std::size_t>(k)]) continue;
      const float* value = t.const_data_ptr<float>() + k * each;
      int bad = 0;
      for (std::int64_t i = 0; i < each; ++i) bad |= !(std::abs(value[i]) <= 1e20f);
      if (bad) good = false;
    }
  });
  check(good, op, name, " must lie within ±1e20 for uint8 images");
}

template <typename S>
void run(ClasswiseSpectrum call, const Tensor& images, void (*kernel)(const ClasswiseSpectrum&, std::int64_t, std::int64_t)) {
  using Stage = ClasswiseSpectrum::Stage;
  const CosinePlan<S> down(call.height), across(call.width());
  call.down = &down;
  call.across = &across;
  const std::int64_t size = call.image_size(), threads = torch::stable::get_num_threads();
  const std::int64_t work = 60 + 2 * (down.odd + across.odd);  // operations on an element, roughly
  constexpr std::int64_t operations_a_piece = 1 << 18;
  if (call.count >= threads || size * work < 4 * operations_a_piece) {
    share_out_work(call.count, size * work, operations_a_piece,
                   [&](std::int64_t begin, std::int64_t end) { kernel(call, begin, end); });
    return;
  }
  const Tensor space = torch::stable::new_zeros(images, {call.work_size() * static_cast<std::int64_t>(sizeof(S))},
                                                ScalarType::Byte);
  for (call.image = 0; call.image < call.count; ++call.image) {
    if (call.labels[call.image] < 0) {
      kernel(call, call.image, call.image + 1);
      continue;
    }
    ClasswiseSpectrum part = call;
    part.work = space.data_ptr();
    for (const Stage stage : {Stage::forward, Stage::mix, Stage::inverse}) {
      part.stage = stage;
      const std::int64_t pieces = part.pieces(stage);
      share_out_work(pieces, size * work / (3 * pieces), operations_a_piece,
                     [&](std::int64_t begin, std::int64_t end) { kernel(part, begin, end); });
    }
  }
}

auto kernel_of(CpuCapability capability) {
#if defined(__x86_64__)
  if (capability == CpuCapability::avx512) return classwise_spectrum_avx512;
  if (capability == CpuCapability::avx2) return classwise_spectrum_avx2;
#endif
  static_cast<void>(capability);
  return classwise_spectrum_portable;
}

Tensor forward(const Tensor& given, const Tensor& given_labels, const Tensor& given_weights,
               const Tensor& given_curves) {
  check_arguments(given, given_labels, given_weights, given_curves);
  const bool wide = given.scalar_type() == ScalarType::Double;
  const auto dense = [&](const Tensor& t) {
    return torch::stable::contiguous(torch::stable::to(t, wide ? ScalarType::Double : ScalarType::Float));
  };
  const Tensor images = torch::stable::contiguous(given, memory_format(given));
  const Tensor labels = torch::stable::contiguous(given_labels);
  const Tensor weights = dense(given_weights), curves = dense(given_curves);
  check_values_within(op, "labels", labels, -1, weights.size(0));
  if (images.scalar_type() == ScalarType::Byte) {
    check_range("weights", weights, labels);
    check_range("curves", curves, labels);
  }
  Tensor out = empty_result(images);
  if (images.numel() == 0) return out;
  const bool last = memory_format(given) == MemoryFormat::ChannelsLast;
  ClasswiseSpectrum call{};
  call.images = images.data_ptr();
  call.out = out.data_ptr();
  call.labels = labels.const_data_ptr<std::int64_t>();
  call.weights = weights.data_ptr();
  call.curves = curves.data_ptr();
  call.type = element_type(images.scalar_type());
  call.count = images.size(0);
  call.channels = images.size(1);
  call.planes = last ? 1 : call.channels;
  call.height = images.size(2);
  call.step = last ? call.channels : 1;
  call.row = images.size(3) * call.step;
  call.sines = curves.size(2);
  const auto kernel = kernel_of(cpu_capability());
  if (wide)
    run<double>(call, images, kernel);
  else
    run<float>(call, images, kernel);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(unlearn, CPU, library) { library.impl("classwise_spectrum", TORCH_BOX(&forward)); }

}  // namespace unlearn
