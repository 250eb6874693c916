// torch.ops.unlearn.classwise_conv on the CPU: arguments checked, images shared out among threads.

#include "classwise_conv.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <tuple>

#include "../check.h"
#include "capability.h"

namespace unlearn {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* op = "classwise_conv: ";

PixelType pixel_type(const Tensor& images) {
  switch (images.scalar_type()) {
    case ScalarType::Byte: return PixelType::byte;
    case ScalarType::Half: return PixelType::half;
    case ScalarType::BFloat16: return PixelType::bfloat16;
    case ScalarType::Float: return PixelType::single;
    case ScalarType::Double: return PixelType::double_;
    default: check(false, op, "images must be uint8, float16, bfloat16, float32 or float64"); return PixelType::byte;
  }
}

Padding padding_of(const std::string& name) {
  const std::array<const char*, 4> names{"zeros", "reflect", "replicate", "circular"};
  const auto at = std::find(names.begin(), names.end(), name);
  check(at != names.end(), op, "padding must be one of zeros, reflect, replicate, circular, got '", name, "'");
  return static_cast<Padding>(at - names.begin());
}

void check_arguments(const Tensor& images, const Tensor& labels, const Tensor& filters, const std::string& rescale) {
  check(images.dim() == 4, op, "images must be [N, C, H, W], got ", images.dim(), " dimensions");
  const PixelType type = pixel_type(images);
  check(labels.dim() == 1 && labels.scalar_type() == ScalarType::Long, op, "labels must be int64 [N], got ",
        labels.dim(), " dimensions or another type");
  check(labels.size(0) == images.size(0), op, "labels must hold one label for each of the ", images.size(0),
        " images, got ", labels.size(0));
  check(filters.dim() == 3 && filters.size(1) == filters.size(2) && filters.size(1) % 2 == 1, op,
        "filters must be [K, k, k] with k odd");
  const bool wide = type == PixelType::double_ && filters.scalar_type() == ScalarType::Double;
  check(filters.scalar_type() == ScalarType::Float || wide, op, "filters must be float32",
        type == PixelType::double_ ? " or float64" : "");
  check(rescale == "max" || rescale == "none", op, "rescale must be one of max, none, got '", rescale, "'");
  check(images.is_cpu() && labels.is_cpu() && filters.is_cpu(), op,
        "images, labels and filters must be on one device");
}

void check_values(const Tensor& images, const Tensor& labels, const Tensor& filters) {
  const std::int64_t count = labels.numel(), classes = filters.size(0);
  const std::int64_t* label = labels.const_data_ptr<std::int64_t>();
  for (std::int64_t n = 0; n < count; ++n)
    check(label[n] >= -1 && label[n] < classes, op, "labels[", n, "] is ", label[n], ", but must lie in [-1, ",
          classes, ")");
  if (images.scalar_type() != ScalarType::Byte) return;
  const float* weight = filters.const_data_ptr<float>();
  check(std::all_of(weight, weight + filters.numel(), [](float w) { return std::abs(w) <= 1e30f; }), op,
        "filters must lie within ±1e30 for uint8 images");
}

// Strides do not matter in dimensions of one element, nor in tensors of none, as in PyTorch.
bool has_layout(const Tensor& t, const std::array<int, 4>& inner_to_outer) {
  if (t.numel() == 0) return true;
  std::int64_t expected = 1;
  for (const int dim : inner_to_outer) {
    if (t.size(dim) != 1 && t.stride(dim) != expected) return false;
    expected *= t.size(dim);
  }
  return true;
}

bool is_channels_last(const Tensor& t) { return has_layout(t, {1, 3, 2, 0}); }
bool is_contiguous(const Tensor& t) { return has_layout(t, {3, 2, 1, 0}); }

MemoryFormat memory_format(const Tensor& images) {
  return is_contiguous(images) || !is_channels_last(images) ? MemoryFormat::Contiguous : MemoryFormat::ChannelsLast;
}

// The images and filters as the kernels read them, kept alive beside the call that points into them.
struct Prepared {
  Tensor images, labels, filters;
  ClasswiseConv call;

  Prepared(const Tensor& given, const Tensor& given_labels, const Tensor& given_filters, const std::string& padding,
           const std::string& rescale)
      : images(torch::stable::contiguous(given, memory_format(given))),
        labels(torch::stable::contiguous(given_labels)),
        filters(torch::stable::contiguous(torch::stable::to(
            given_filters, given.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float))),
        call{} {
    check_values(images, labels, filters);
    const bool last = memory_format(given) == MemoryFormat::ChannelsLast;
    const std::int64_t channels = images.size(1), width = images.size(3);
    call.images = images.data_ptr();
    call.labels = labels.const_data_ptr<std::int64_t>();
    call.filters = filters.data_ptr();
    call.type = pixel_type(images);
    call.count = images.size(0);
    call.planes = last ? 1 : channels;
    call.height = images.size(2);
    call.step = last ? channels : 1;
    call.row = width * call.step;
    call.k = filters.size(1);
    call.padding = padding_of(padding);
    call.rescale = rescale == "max";
  }

  Tensor empty_result() const {
    const auto& t = images;
    const std::array<std::int64_t, 4> shape{t.size(0), t.size(1), t.size(2), t.size(3)};
    return torch::stable::empty({shape.data(), 4}, t.scalar_type(), std::nullopt, t.device(), std::nullopt,
                                memory_format(t));
  }

  template <class Range>
  void parallel(Range range) const {
    if (call.image_size() == 0) return;
    constexpr std::int64_t multiply_adds_a_thread = 1 << 18;
    const std::int64_t work = call.image_size() * (call.k * call.k + 4);
    const std::int64_t grain = std::max<std::int64_t>(1, multiply_adds_a_thread / work);
    torch::stable::parallel_for(0, call.count, grain,
                                [&](std::int64_t begin, std::int64_t end) { range(call, begin, end); });
  }

  void forward() const {
    const auto capability = cpu_capability();
#if defined(__x86_64__)
    if (capability == CpuCapability::avx512) return parallel(classwise_conv_avx512);
    if (capability == CpuCapability::avx2) return parallel(classwise_conv_avx2);
#endif
    parallel(classwise_conv_portable);
  }
};

Tensor forward(const Tensor& images, const Tensor& labels, const Tensor& filters, std::string padding,
               std::string rescale) {
  check_arguments(images, labels, filters, rescale);
  Prepared prepared(images, labels, filters, padding, rescale);
  Tensor out = prepared.empty_result();
  prepared.call.out = out.data_ptr();
  prepared.forward();
  return out;
}

void forward_into(const Tensor& images, const Tensor& labels, const Tensor& filters, Tensor out, std::string padding,
                  std::string rescale) {
  check_arguments(images, labels, filters, rescale);
  Prepared prepared(images, labels, filters, padding, rescale);
  const Tensor& in = prepared.images;
  bool fits = out.is_cpu() && out.dim() == 4 && out.scalar_type() == in.scalar_type();
  for (int dim = 0; fits && dim < 4; ++dim) fits = out.size(dim) == in.size(dim);
  check(fits, op, "out must have the dtype, shape and device of images");
  check(memory_format(images) == MemoryFormat::ChannelsLast ? is_channels_last(out) : is_contiguous(out), op,
        "out must have the memory format of the result: ",
        memory_format(images) == MemoryFormat::ChannelsLast ? "channels-last" : "contiguous");
  const auto* from = static_cast<const char*>(in.data_ptr());
  auto* to = static_cast<char*>(out.data_ptr());
  const std::int64_t bytes = in.numel() * static_cast<std::int64_t>(in.element_size());
  check(bytes == 0 || to + bytes <= from || from + bytes <= to, op, "out must share no memory with images");
  prepared.call.out = to;
  prepared.forward();
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& images, const Tensor& labels,
                                    const Tensor& filters, std::string padding, std::string rescale) {
  check_arguments(images, labels, filters, rescale);
  check(images.scalar_type() != ScalarType::Byte, op, "uint8 images have no gradient");
  Prepared prepared(images, labels, filters, padding, rescale);
  const Tensor grad_like_images = torch::stable::contiguous(grad, memory_format(images));
  Tensor grad_images = prepared.empty_result();
  const std::int64_t count = images.size(0), classes = filters.size(0), taps = filters.size(1) * filters.size(2);
  Tensor each = torch::stable::new_empty(prepared.filters, {count, taps});
  Tensor sums = torch::stable::new_zeros(prepared.filters, {classes, filters.size(1), filters.size(2)});
  prepared.call.grad = grad_like_images.data_ptr();
  prepared.call.out = grad_images.data_ptr();
  prepared.call.filter_grads = each.data_ptr();
  prepared.parallel(classwise_conv_backward_range);
  const auto add = [&](auto* sum, const auto* one) {
    for (std::int64_t n = 0; n < count; ++n)
      for (std::int64_t tap = 0; prepared.call.labels[n] >= 0 && tap < taps; ++tap)
        sum[prepared.call.labels[n] * taps + tap] += one[n * taps + tap];
  };
  if (prepared.call.image_size() > 0) {
    if (prepared.call.type == PixelType::double_)
      add(sums.mutable_data_ptr<double>(), each.const_data_ptr<double>());
    else
      add(sums.mutable_data_ptr<float>(), each.const_data_ptr<float>());
  }
  return {grad_images, torch::stable::to(sums, filters.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(unlearn, CPU, library) {
  library.impl("classwise_conv", TORCH_BOX(&forward));
  library.impl("classwise_conv_into", TORCH_BOX(&forward_into));
  library.impl("classwise_conv_backward", TORCH_BOX(&backward));
}

}  // namespace unlearn
