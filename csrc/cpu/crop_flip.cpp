// torch.ops.unlearn.crop_flip on the CPU: arguments checked, rows of the result shared out among threads.

#include "crop_flip.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>

#include "arguments.h"
#include "capability.h"
#include "share_out.h"

namespace unlearn {
namespace {

using torch::headeronly::MemoryFormat;

constexpr const char* op = "crop_flip: ";
constexpr std::int64_t max_padding = std::int64_t{1} << 30;

void check_arguments(const Tensor& images, const Tensor& offsets, const Tensor& flips, std::int64_t padding,
                     const std::optional<Tensor>& index, ScalarType dtype) {
  check_typed(op, "images", images, ScalarType::Byte, 4, "[N, H, W, C]");
  check_typed(op, "offsets", offsets, ScalarType::Long, 2, "[B, 2]");
  check_typed(op, "flips", flips, ScalarType::Bool, 1, "[B]");
  check(offsets.size(1) == 2, op, "offsets must hold 2 numbers for every batch entry, got ", offsets.size(1));
  if (index) check_typed(op, "index", *index, ScalarType::Long, 1, "[B]");
  const std::int64_t batch = index ? index->size(0) : images.size(0);
  for (const auto& [name, rows] : {std::pair{"offsets", offsets.size(0)}, std::pair{"flips", flips.size(0)}})
    check(rows == batch, op, name, " must hold one row for each of the ", batch,
          index ? " entries of index" : " images", ", got ", rows);
  check_within(op, "padding", padding, 0, max_padding);
  check_dtype(op, "dtype", dtype, {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half, ScalarType::Double});
  check_one_device(op, {{"images", &images}, {"offsets", &offsets}, {"flips", &flips},
                        {"index", index ? &*index : nullptr}});
}

void run(const CropFlip& call) {
  constexpr std::int64_t values_a_piece = 1 << 15;
  auto* range = crop_flip_portable;
#if defined(__x86_64__)
  if (cpu_capability() == CpuCapability::avx512) range = crop_flip_avx512;
  if (cpu_capability() == CpuCapability::avx2) range = crop_flip_avx2;
#endif
  share_out_work(call.batch * call.height, call.row(), values_a_piece,
                 [&](std::int64_t begin, std::int64_t end) { range(call, begin, end); });
}

std::array<std::int64_t, 4> shape_of_result(const Tensor& images, const Tensor& offsets) {
  return {offsets.size(0), images.size(3), images.size(1), images.size(2)};
}

// Arguments that have been checked, but for their values, into a result laid out channels-last.
void compute(Tensor& out, const Tensor& images, const Tensor& offsets, const Tensor& flips, std::int64_t padding,
             std::optional<Tensor> index, ScalarType dtype) {
  CropFlip call{};
  call.type = element_type(dtype);
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
  check_values_within(op, "offsets", corners, 0, 2 * padding, true);
  if (index) check_values_within(op, "index", *index, 0, stored.size(0));
  call.out = out.mutable_data_ptr();
  if (out.numel() > 0) run(call);
}

Tensor crop_flip(const Tensor& images, const Tensor& offsets, const Tensor& flips, std::int64_t padding,
                 std::optional<Tensor> index, ScalarType dtype) {
  check_arguments(images, offsets, flips, padding, index, dtype);
  const auto shape = shape_of_result(images, offsets);
  Tensor out = torch::stable::empty({shape.data(), 4}, dtype, std::nullopt, images.device(), std::nullopt,
                                    MemoryFormat::ChannelsLast);
  compute(out, images, offsets, flips, padding, index, dtype);
  return out;
}

void crop_flip_into(Tensor out, const Tensor& images, const Tensor& offsets, const Tensor& flips, std::int64_t padding,
                    std::optional<Tensor> index, ScalarType dtype) {
  check_arguments(images, offsets, flips, padding, index, dtype);
  check_dtype(op, "out", out.scalar_type(), {dtype});
  const auto wanted = shape_of_result(images, offsets);
  bool fits = out.dim() == 4;
  for (int dim = 0; fits && dim < 4; ++dim) fits = out.size(dim) == wanted[dim];
  check(fits, op, "out must be [", wanted[0], ", ", wanted[1], ", ", wanted[2], ", ", wanted[3], "], got ",
        shape_of(out));
  check(has_layout(out, {1, 3, 2, 0}), op, "out must be channels-last in memory");
  check_one_device(op, {{"images", &images}, {"out", &out}});
  check_separate(op, "out", out, "images", images);
  check_separate(op, "out", out, "offsets", offsets);
  check_separate(op, "out", out, "flips", flips);
  if (index) check_separate(op, "out", out, "index", *index);
  compute(out, images, offsets, flips, padding, index, dtype);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(unlearn, CPU, library) {
  library.impl("crop_flip", TORCH_BOX(&crop_flip));
  library.impl("crop_flip_into", TORCH_BOX(&crop_flip_into));
}

}  // namespace unlearn
