// torch.ops.unlearn.pgd_step and pgd_step_ on the CPU: arguments checked, layouts made one, work shared out.

#include "pgd_step.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <string>
#include <vector>

#include "arguments.h"
#include "capability.h"
#include "share_out.h"

namespace unlearn {
namespace {

constexpr const char* op = "pgd_step: ";

PgdStep checked(const Tensor& x, const Tensor& grad, const Tensor& origin, double step_size, double eps,
                const std::string& norm, double lower, double upper) {
  check_layout(op, "x", x, x.dim() > 0, "[N, ...]");
  check_dtype(op, "x", x.scalar_type(),
              {ScalarType::Half, ScalarType::BFloat16, ScalarType::Float, ScalarType::Double});
  check_like_x(op, "grad", grad, x);
  check_like_x(op, "origin", origin, x);
  const bool l2 = check_step(op, step_size, eps, norm, lower, upper);
  const std::int64_t count = x.size(0), size = x.numel() / std::max<std::int64_t>(count, 1);
  const ElementType type = element_type(x.scalar_type());
  return {nullptr, nullptr, nullptr, nullptr, type, count, size, step_size, eps, lower, upper, l2};
}

// Every dimension of more than one element, innermost first.
std::vector<std::int64_t> dims_by_stride(const Tensor& t) {
  std::vector<std::int64_t> dims;
  for (std::int64_t dim = 0; dim < t.dim(); ++dim)
    if (t.size(dim) != 1) dims.push_back(dim);
  std::stable_sort(dims.begin(), dims.end(), [&](auto a, auto b) { return t.stride(a) < t.stride(b); });
  return dims;
}

bool is_dense(const Tensor& t) {
  std::int64_t expected = 1;
  for (const std::int64_t dim : dims_by_stride(t)) {
    if (t.stride(dim) != expected) return false;
    expected *= t.size(dim);
  }
  return true;
}

bool samples_outermost(const Tensor& dense) {
  return dense.size(0) == 1 || dense.stride(0) == dense.numel() / dense.size(0);
}

bool same_layout(const Tensor& a, const Tensor& b) {
  for (std::int64_t dim = 0; dim < a.dim(); ++dim)
    if (a.size(dim) != 1 && a.stride(dim) != b.stride(dim)) return false;
  return true;
}

// `t` as it is where it has the layout, otherwise copied into it.
Tensor in_layout(const Tensor& t, const Tensor& layout) {
  if (same_layout(t, layout)) return t;
  Tensor copy = torch::stable::empty_like(layout);
  torch::stable::copy_(copy, t);
  return copy;
}

// `out` is dense, and under L2 each of its samples is one run.
void compute(PgdStep call, const Tensor& x, const Tensor& grad, const Tensor& origin, const Tensor& out) {
  const Tensor inputs[] = {in_layout(x, out), in_layout(grad, out), in_layout(origin, out)};
  call.x = inputs[0].data_ptr();
  call.grad = inputs[1].data_ptr();
  call.origin = inputs[2].data_ptr();
  call.out = out.data_ptr();
  auto* range = pgd_step_portable;
#if defined(__x86_64__)
  if (cpu_capability() == CpuCapability::avx512) range = pgd_step_avx512;
  if (cpu_capability() == CpuCapability::avx2) range = pgd_step_avx2;
#endif
  constexpr std::int64_t elements_a_piece = 1 << 15;
  share_out_work(call.parts(), call.part_size(), elements_a_piece,
                 [&](std::int64_t begin, std::int64_t end) { range(call, begin, end); });
}

bool serves(const PgdStep& call, const Tensor& t) { return is_dense(t) && (!call.l2 || samples_outermost(t)); }

void compute_any(const PgdStep& call, const Tensor& x, const Tensor& grad, const Tensor& origin, Tensor& out) {
  if (serves(call, out)) return compute(call, x, grad, origin, out);
  Tensor dense = torch::stable::empty_like(out);
  if (!serves(call, dense)) dense = torch::stable::contiguous(dense);
  compute(call, x, grad, origin, dense);
  torch::stable::copy_(out, dense);
}

Tensor step(const Tensor& x, const Tensor& grad, const Tensor& origin, double step_size, double eps, std::string norm,
            double lower, double upper) {
  const PgdStep call = checked(x, grad, origin, step_size, eps, norm, lower, upper);
  Tensor out = torch::stable::empty_like(x);
  if (x.numel() > 0) compute_any(call, x, grad, origin, out);
  return out;
}

void step_in_place(Tensor x, const Tensor& grad, const Tensor& origin, double step_size, double eps, std::string norm,
                   double lower, double upper) {
  const PgdStep call = checked(x, grad, origin, step_size, eps, norm, lower, upper);
  if (x.numel() == 0) return;
  check(!overlaps_itself(x), op, "x is written in place, so no two of its elements may share memory; clone it first");
  check_separate(op, "x", x, "grad", grad);
  check_separate(op, "x", x, "origin", origin);
  compute_any(call, x, grad, origin, x);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(unlearn, CPU, library) {
  library.impl("pgd_step", TORCH_BOX(&step));
  library.impl("pgd_step_", TORCH_BOX(&step_in_place));
}

}  // namespace unlearn
