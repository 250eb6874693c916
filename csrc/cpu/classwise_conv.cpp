// torch.ops.unlearn.classwise_conv on the CPU: arguments checked, images shared out among threads.

#include "classwise_conv.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "capability.h"
#include "classwise_conv_arguments.h"
#include "share_out.h"

namespace unlearn {
namespace {

using namespace classwise_conv_arguments;

void check_values(const Tensor& images, const Tensor& labels, const Tensor& filters) {
  check_values_within(op, "labels", labels, -1, filters.size(0));
  if (images.scalar_type() != ScalarType::Byte) return;
  const float* weight = filters.const_data_ptr<float>();
  check(std::all_of(weight, weight + filters.numel(), [](float w) { return std::abs(w) <= 1e30f; }), op,
        "filters must lie within ±1e30 for uint8 images");
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
    call.type = element_type(images.scalar_type());
    call.count = images.size(0);
    call.planes = last ? 1 : channels;
    call.height = images.size(2);
    call.step = last ? channels : 1;
    call.row = width * call.step;
    call.k = filters.size(1);
    call.padding = padding_of(padding);
    call.rescale = rescale == "max";
  }

  template <class Range>
  void parallel(Range range) const {
    if (call.image_size() == 0) return;
    constexpr std::int64_t multiply_adds_a_piece = 1 << 18;
    share_out_work(call.count, call.image_size() * (call.k * call.k + 4), multiply_adds_a_piece,
                   [&](std::int64_t begin, std::int64_t end) { range(call, begin, end); });
  }

  void forward() const {
    const auto kernel = kernel_of(cpu_capability());
    // An image shared out by tiles is computed twice, which pays where threads would otherwise be idle.
    constexpr std::int64_t values_worth_sharing = 1 << 17;
    const std::int64_t threads = static_cast<std::int64_t>(torch::stable::get_num_threads());
    const std::int64_t times_by_one = call.image_size() == call.kept_values() ? 1 : 2;
    if (call.image_size() <= values_worth_sharing || 2 * call.count >= times_by_one * threads)
      return parallel(kernel);
    for (std::int64_t n = 0; n < call.count; ++n) {
      if (call.labels[n] < 0)
        kernel(call, n, n + 1);
      else
        forward_by_tiles(kernel, n);
    }
  }

 private:
  using Kernel = void (*)(const ClasswiseConv&, std::int64_t, std::int64_t);

  static Kernel kernel_of(CpuCapability capability) {
#if defined(__x86_64__)
    if (capability == CpuCapability::avx512) return classwise_conv_avx512;
    if (capability == CpuCapability::avx2) return classwise_conv_avx2;
#endif
    static_cast<void>(capability);
    return classwise_conv_portable;
  }

  // One image, whose tiles are shared out among threads; the same values and maximum, whatever the order.
  void forward_by_tiles(Kernel kernel, std::int64_t n) const {
    std::vector<double> peaks(Tiling(call).count(call));
    ClasswiseConv part = call;
    part.by_tiles = true;
    part.image = n;
    const auto every_tile = [&] {
      share_out(static_cast<std::int64_t>(peaks.size()), 1,
                [&](std::int64_t begin, std::int64_t end) { kernel(part, begin, end); });
    };
    if (call.rescale) {
      part.peaks = peaks.data();
      every_tile();
      double peak = -std::numeric_limits<double>::infinity();
      for (const double each : peaks) peak = each > peak || std::isnan(each) ? each : peak;
      if (peak != 0) part.divisor = peak;
      part.peaks = nullptr;
    }
    every_tile();
  }
};

Tensor forward(const Tensor& images, const Tensor& labels, const Tensor& filters, std::string padding,
               std::string rescale) {
  check_arguments(images, labels, filters, padding, rescale);
  Prepared prepared(images, labels, filters, padding, rescale);
  Tensor out = empty_result(prepared.images);
  prepared.call.out = out.data_ptr();
  prepared.forward();
  return out;
}

void forward_into(Tensor out, const Tensor& images, const Tensor& labels, const Tensor& filters, std::string padding,
                  std::string rescale) {
  check_arguments(images, labels, filters, padding, rescale);
  check_out(images, labels, filters, out);
  Prepared prepared(images, labels, filters, padding, rescale);
  prepared.call.out = out.data_ptr();
  prepared.forward();
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& images, const Tensor& labels,
                                    const Tensor& filters, std::string padding, std::string rescale) {
  check_arguments(images, labels, filters, padding, rescale);
  check(images.scalar_type() != ScalarType::Byte, op, "uint8 images have no gradient");
  Prepared prepared(images, labels, filters, padding, rescale);
  const Tensor grad_like_images = torch::stable::contiguous(grad, memory_format(images));
  Tensor grad_images = empty_result(prepared.images);
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
    if (prepared.call.type == ElementType::double_)
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
