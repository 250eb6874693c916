// torch.ops.unlearn.classwise_conv on a GPU: arguments checked, kernels launched on PyTorch's current stream.

#include "classwise_conv.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "classwise_conv_arguments.h"

namespace unlearn {
namespace {

using namespace classwise_conv_arguments;
using torch::stable::accelerator::DeviceGuard;

cudaStream_t current_stream(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// The images and filters as the kernels read them, kept alive beside the call that points into them.
struct Prepared {
  Tensor images, labels, filters;
  ClasswiseConvCuda call;

  Prepared(const Tensor& given, const Tensor& given_labels, const Tensor& given_filters, const std::string& padding,
           const std::string& rescale)
      : images(torch::stable::contiguous(given, memory_format(given))),
        labels(torch::stable::contiguous(given_labels)),
        filters(torch::stable::contiguous(torch::stable::to(
            given_filters, given.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float))),
        call{} {
    const bool last = memory_format(given) == MemoryFormat::ChannelsLast;
    call.images = images.data_ptr();
    call.labels = labels.const_data_ptr<std::int64_t>();
    call.filters = filters.data_ptr();
    call.type = element_type(images.scalar_type());
    call.count = images.size(0);
    call.channels = images.size(1);
    call.height = images.size(2);
    call.width = images.size(3);
    call.step = last ? call.channels : 1;
    call.row_step = call.width * call.step;
    call.channel_step = last ? 1 : call.height * call.width;
    call.classes = filters.size(0);
    call.k = filters.size(1);
    call.padding = padding_of(padding);
    call.rescale = rescale == "max";
    call.stream = current_stream(images);
  }
};

Tensor forward(const Tensor& images, const Tensor& labels, const Tensor& filters, std::string padding,
               std::string rescale) {
  check_arguments(images, labels, filters, padding, rescale);
  const DeviceGuard guard(images.get_device_index());
  Prepared prepared(images, labels, filters, padding, rescale);
  Tensor out = empty_result(prepared.images);
  prepared.call.out = out.data_ptr();
  classwise_conv_forward(prepared.call);
  return out;
}

void forward_into(Tensor out, const Tensor& images, const Tensor& labels, const Tensor& filters, std::string padding,
                  std::string rescale) {
  check_arguments(images, labels, filters, padding, rescale);
  check_out(images, labels, filters, out);
  const DeviceGuard guard(images.get_device_index());
  Prepared prepared(images, labels, filters, padding, rescale);
  prepared.call.out = out.data_ptr();
  classwise_conv_forward(prepared.call);
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& images, const Tensor& labels,
                                    const Tensor& filters, std::string padding, std::string rescale) {
  check_arguments(images, labels, filters, padding, rescale);
  check(images.scalar_type() != ScalarType::Byte, op, "uint8 images have no gradient");
  check(grad.device() == images.device(), op, "grad and images must be on one device");
  const DeviceGuard guard(images.get_device_index());
  Prepared prepared(images, labels, filters, padding, rescale);
  const Tensor grad_like_images = torch::stable::contiguous(grad, memory_format(images));
  const std::int64_t count = images.size(0), k = filters.size(1);
  Tensor grad_images = empty_result(prepared.images);
  Tensor work = torch::stable::new_empty(prepared.filters, {images.numel()});
  const std::int64_t parts = classwise_conv_backward_parts(prepared.call);
  Tensor each = torch::stable::new_empty(prepared.filters, {count, parts, k * k});
  Tensor sums = torch::stable::new_zeros(prepared.filters, {filters.size(0), k, k});
  prepared.call.grad = grad_like_images.data_ptr();
  prepared.call.out = grad_images.data_ptr();
  prepared.call.work = work.data_ptr();
  prepared.call.each_filter = each.data_ptr();
  prepared.call.filter_grads = sums.data_ptr();
  classwise_conv_backward(prepared.call);
  return {grad_images, torch::stable::to(sums, filters.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(unlearn, CUDA, library) {
  library.impl("classwise_conv", TORCH_BOX(&forward));
  library.impl("classwise_conv_into", TORCH_BOX(&forward_into));
  library.impl("classwise_conv_backward", TORCH_BOX(&backward));
}

}  // namespace unlearn
