#pragma once

// What classwise_conv refuses and how it lays out its result, whichever device it runs on.

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <string>

#include "check.h"
#include "padding.h"
#include "pixel_type.h"

namespace unlearn {
namespace classwise_conv_arguments {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* op = "classwise_conv: ";

inline PixelType pixel_type(const Tensor& images) {
  switch (images.scalar_type()) {
    case ScalarType::Byte: return PixelType::byte;
    case ScalarType::Half: return PixelType::half;
    case ScalarType::BFloat16: return PixelType::bfloat16;
    case ScalarType::Float: return PixelType::single;
    case ScalarType::Double: return PixelType::double_;
    default: check(false, op, "images must be uint8, float16, bfloat16, float32 or float64"); return PixelType::byte;
  }
}

inline Padding padding_of(const std::string& name) {
  const std::array<const char*, 4> names{"zeros", "reflect", "replicate", "circular"};
  const auto at = std::find(names.begin(), names.end(), name);
  check(at != names.end(), op, "padding must be one of zeros, reflect, replicate, circular, got '", name, "'");
  return static_cast<Padding>(at - names.begin());
}

inline void check_arguments(const Tensor& images, const Tensor& labels, const Tensor& filters,
                            const std::string& rescale) {
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
  check(labels.device() == images.device() && filters.device() == images.device(), op,
        "images, labels and filters must be on one device");
}

// Strides do not matter in dimensions of one element, nor in tensors of none, as in PyTorch.
inline bool has_layout(const Tensor& t, const std::array<int, 4>& inner_to_outer) {
  if (t.numel() == 0) return true;
  std::int64_t expected = 1;
  for (const int dim : inner_to_outer) {
    if (t.size(dim) != 1 && t.stride(dim) != expected) return false;
    expected *= t.size(dim);
  }
  return true;
}

inline bool is_channels_last(const Tensor& t) { return has_layout(t, {1, 3, 2, 0}); }
inline bool is_contiguous(const Tensor& t) { return has_layout(t, {3, 2, 1, 0}); }

inline MemoryFormat memory_format(const Tensor& images) {
  return is_contiguous(images) || !is_channels_last(images) ? MemoryFormat::Contiguous : MemoryFormat::ChannelsLast;
}

// `in` is the images as they are read: contiguous in the result's memory format.
inline void check_out(const Tensor& in, const Tensor& out) {
  bool fits = out.device() == in.device() && out.dim() == 4 && out.scalar_type() == in.scalar_type();
  for (int dim = 0; fits && dim < 4; ++dim) fits = out.size(dim) == in.size(dim);
  check(fits, op, "out must have the dtype, shape and device of images");
  const bool last = memory_format(in) == MemoryFormat::ChannelsLast;
  check(last ? is_channels_last(out) : is_contiguous(out), op, "out must have the memory format of the result: ",
        last ? "channels-last" : "contiguous");
  const auto* from = static_cast<const char*>(in.data_ptr());
  const auto* to = static_cast<const char*>(out.data_ptr());
  const std::int64_t bytes = in.numel() * static_cast<std::int64_t>(in.element_size());
  check(bytes == 0 || to + bytes <= from || from + bytes <= to, op, "out must share no memory with images");
}

inline Tensor empty_result(const Tensor& t) {
  const std::array<std::int64_t, 4> shape{t.size(0), t.size(1), t.size(2), t.size(3)};
  return torch::stable::empty({shape.data(), 4}, t.scalar_type(), std::nullopt, t.device(), std::nullopt,
                              memory_format(t));
}

}  // namespace classwise_conv_arguments
}  // namespace unlearn
