#pragma once

// What classwise_conv refuses and how it lays out its result, whichever device it runs on.

#include <torch/csrc/stable/ops.h>

#include <array>
#include <string>

#include "arguments.h"
#include "padding.h"

namespace unlearn {
namespace classwise_conv_arguments {

using torch::headeronly::MemoryFormat;

constexpr const char* op = "classwise_conv: ";

inline Padding padding_of(const std::string& name) {
  return static_cast<Padding>(check_one_of(op, "padding", name, {"zeros", "reflect", "replicate", "circular"}));
}

inline void check_arguments(const Tensor& images, const Tensor& labels, const Tensor& filters,
                            const std::string& padding, const std::string& rescale) {
  check_layout(op, "images", images, images.dim() == 4, "[N, C, H, W]");
  check_dtype(op, "images", images.scalar_type(),
              {ScalarType::Byte, ScalarType::Half, ScalarType::BFloat16, ScalarType::Float, ScalarType::Double});
  check_labels(op, labels, images.size(0), "images");
  check(filters.dim() == 3 && filters.size(1) == filters.size(2) && filters.size(1) % 2 == 1, op,
        "filters must be [K, k, k] with k odd, got ", shape_of(filters));
  if (images.scalar_type() == ScalarType::Double)
    check_dtype(op, "filters", filters.scalar_type(), {ScalarType::Float, ScalarType::Double});
  else
    check_dtype(op, "filters", filters.scalar_type(), {ScalarType::Float});
  padding_of(padding);
  check_one_of(op, "rescale", rescale, {"max", "none"});
  check_one_device(op, {{"images", &images}, {"labels", &labels}, {"filters", &filters}});
}

inline bool is_channels_last(const Tensor& t) { return has_layout(t, {1, 3, 2, 0}); }
inline bool is_contiguous(const Tensor& t) { return has_layout(t, {3, 2, 1, 0}); }

inline MemoryFormat memory_format(const Tensor& images) {
  return is_contiguous(images) || !is_channels_last(images) ? MemoryFormat::Contiguous : MemoryFormat::ChannelsLast;
}

inline void check_out(const Tensor& images, const Tensor& labels, const Tensor& filters, const Tensor& out) {
  const bool fits = out.device() == images.device() && out.scalar_type() == images.scalar_type() &&
                    shape_of(out) == shape_of(images);
  check(fits, op, "out must have the dtype, shape and device of images");
  const bool last = memory_format(images) == MemoryFormat::ChannelsLast;
  check(last ? is_channels_last(out) : is_contiguous(out), op, "out must have the memory format of the result: ",
        last ? "channels-last" : "contiguous");
  check_separate(op, "out", out, "images", images);
  check_separate(op, "out", out, "labels", labels);
  check_separate(op, "out", out, "filters", filters);
}

inline Tensor empty_result(const Tensor& t) {
  const std::array<std::int64_t, 4> shape{t.size(0), t.size(1), t.size(2), t.size(3)};
  return torch::stable::empty({shape.data(), 4}, t.scalar_type(), std::nullopt, t.device(), std::nullopt,
                              memory_format(t));
}

}  // namespace classwise_conv_arguments
}  // namespace unlearn
