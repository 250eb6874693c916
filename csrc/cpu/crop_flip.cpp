// torch.ops.unlearn.crop_flip on the CPU: arguments checked, rows of the result shared out among threads.

#include "crop_flip.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <optional>

#include "../check.h"
#include "capability.h"

namespace unlearn {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* op = "crop_flip: ";
constexpr std::int64_t max_padding = std::int64_t{1} << 30;

LevelType level_type(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half: return LevelType::half;
    case ScalarType::BFloat16: return LevelType::bfloat16;
    case ScalarType::Float: return LevelType::single;
    case ScalarType::Double: return LevelType::double_;
    default:
      check(false, op, "dtype must be float32, bfloat16, float16 or float64, got ",
            torch::headeronly::toString(dtype));
      return LevelType::single;
  }
}

void check_type(const char* name, const Tensor& t, std::int64_t dims, ScalarType type, const char* wanted) {
  check(t.dim() == dims && t.scalar_type() == type, op, name, " must be ", wanted, ", got ",
        torch::headeronly::toString(t.scalar_type()), " with ", t.dim(), " dimensions");
}

void check_arguments(const Tensor& images, const Tensor& offsets, const Tensor& flips, std::int64_t padding,
                     const std::optional<Tensor>& index) {
  check_type("images", images, 4, ScalarType::Byte, "uint8 [N, H, W, C]");
  check_type("offsets", offsets, 2, ScalarType::Long, "int64 [B, 2]");
  check(offsets.size(1) == 2, op, "offsets must hold 2 numbers for every batch entry, got ", offsets.size(1));
  check_type("flips", flips, 1, ScalarType::Bool, "bool [B]");
  if (index) check_type("index", *index, 1, ScalarType::Long, "int64 [B]");
  const std::int64_t batch = index ? index->size(0) : images.size(0);
  const char* named = index ? " entries of index" : " images";
  check(offsets.size(0) == batch, op, "offsets must have a row for each of the ", batch, named, ", got ",
        offsets.size(0));
  check(flips.size(0) == batch, op, "flips must hold one for each of the ", batch, named, ", got ", flips.size(0));
  check(padding >= 0 && padding <= max_padding, op, "padding must lie in [0, ", max_padding, "], got ", padding);
  check(images.is_cpu() && offsets.is_cpu() && flips.is_cpu() && (!index || index->is_cpu()), op,
        "images, offsets, flips and index must be on one device");
}

void check_values(const CropFlip& call, std::int64_t stored) {
  for (std::int64_t k = 0; k < 2 * call.batch; ++k)
    check(call.offsets[k] >= 0 && call.offsets[k] <= 2 * call.padding, op, "offsets[", k / 2, ", ", k % 2, "] is ",
          call.offsets[k], ", but must lie in [0, ", 2 * call.padding, "]");
  for (std::int64_t b = 0; call.index != nullptr && b < call.batch; ++b)
    check(call.index[b] >= 0 && call.index[b] < stored, op, "index[", b, "] is ", call.index[b],
          ", but must lie in [0, ", stored, ")");
}

void share_out(const CropFlip& call) {
  constexpr std::int64_t values_a_thread = 1 << 15;
  const std::int64_t grain = std::max<std::int64_t>(1, values_a_thread / call.row());
  const auto all = [&](auto range) {
    torch::stable::parallel_for(0, call.batch * call.height, grain,
                                [&](std::int64_t begin, std::int64_t end) { range(call, begin, end); });
  };
#if defined(__x86_64__)
  if (cpu_capability() == CpuCapability::avx512) return all(crop_flip_avx512);
  if (cpu_capability() == CpuCapability::avx2) return all(crop_flip_avx2);
#endif
  all(crop_flip_portable);
}

Tensor crop_flip(const Tensor& images, const Tensor& offsets, const Tensor& flips, std::int64_t padding,
                 std::optional<Tensor> index, ScalarType dtype) {
  check_arguments(images, offsets, flips, padding, index);
  CropFlip call{};
  call.type = level_type(dtype);
  const Tensor stored = torch::stable::contiguous(images), corners = torch::stable::contiguous(offsets);
  const Tensor mirrored = torch::stable::contiguous(flips);
  if (index) index = torch::stable::contiguous(*index);
  call.images = stored.const_data_ptr<std::uint8_t>();
  call.images_end = call.images + stored.numel();
  call.offsets = corners.const_data_ptr<std::int64_t>();
  call.flips = static_cast<const bool*>(mirrored.const_data_ptr());
  call.index = index ? index->const_data_ptr<std::int64_t>() : nullptr;
  call.batch = corners.size(0);
  call.height = stored.size(1);
  call.width = stored.size(2);
  call.channels = stored.size(3);
  call.padding = padding;
  if (call.batch > 0) check_values(call, stored.size(0));
  const std::array<std::int64_t, 4> shape{call.batch, call.channels, call.height, call.width};
  Tensor out = torch::stable::empty({shape.data(), 4}, dtype, std::nullopt, images.device(), std::nullopt,
                                    MemoryFormat::ChannelsLast);
  call.out = out.mutable_data_ptr();
  if (out.numel() > 0) share_out(call);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(unlearn, CPU, library) { library.impl("crop_flip", TORCH_BOX(&crop_flip)); }

}  // namespace unlearn
