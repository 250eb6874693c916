// torch.ops.unlearn.pgd_step and pgd_step_ on the CPU: arguments checked, layouts made one, work shared out.

#include "pgd_step.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../check.h"
#include "capability.h"
#include "share_out.h"

namespace unlearn {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr const char* op = "pgd_step: ";

std::string shape_of(const Tensor& t) {
  std::string text;
  for (std::int64_t dim = 0; dim < t.dim(); ++dim) text += (dim ? ", " : "") + std::to_string(t.size(dim));
  return "[" + text + "]";
}

void check_like_x(const Tensor& x, const Tensor& other, const char* name) {
  check(shape_of(other) == shape_of(x), op, name, " must have x's shape ", shape_of(x), ", got ", shape_of(other));
  check(other.scalar_type() == x.scalar_type(), op, name, " must have x's dtype ", toString(x.scalar_type()),
        ", got ", toString(other.scalar_type()));
  check(other.is_cpu(), op, name, " must be on x's device cpu");
}

bool is_l2(const std::string& norm) {
  check(norm == "linf" || norm == "l2", op, "norm must be one of linf, l2, got '", norm, "'");
  return norm == "l2";
}

PgdStep checked(const Tensor& x, const Tensor& grad, const Tensor& origin, double step_size, double eps,
                const std::string& norm, double lower, double upper) {
  check(x.dim() > 0, op, "x must be [N, ...], got 0 dimensions");
  const ScalarType type = x.scalar_type();
  check(type == ScalarType::Half || type == ScalarType::BFloat16 || type == ScalarType::Float ||
            type == ScalarType::Double,
        op, "x must be float16, bfloat16, float32 or float64, got ", toString(type));
  check_like_x(x, grad, "grad");
  check_like_x(x, origin, "origin");
  const bool l2 = is_l2(norm);
  check(std::isfinite(step_size), op, "step_size must be finite, got ", step_size);
  check(eps >= 0, op, "eps must be at least 0, got ", eps);
  check(lower <= upper, op, "lower must be at most upper, got ", lower, " and ", upper);
  const std::int64_t count = x.size(0);
  return {nullptr, nullptr, nullptr, nullptr, type, count, x.numel() / std::max<std::int64_t>(count, 1), step_size,
          eps, lower, upper, l2};
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

// `t` as it is where it has the layout, else copied into it.
Tensor in_layout(const Tensor& t, const Tensor& layout) {
  if (same_layout(t, layout)) return t;
  Tensor copy = torch::stable::empty_like(layout);
  torch::stable::copy_(copy, t);
  return copy;
}

struct Memory {
  const char* begin;
  const char* end;
  explicit Memory(const Tensor& t) : begin(static_cast<const char*>(t.data_ptr())) {
    std::int64_t reach = 1;
    for (std::int64_t dim = 0; dim < t.dim(); ++dim) reach += (t.size(dim) - 1) * t.stride(dim);
    end = begin + reach * static_cast<std::int64_t>(t.element_size());
  }
};

void check_memory(const Tensor& x, const Tensor& other, const char* name) {
  const Memory mine(x), theirs(other);
  check(mine.end <= theirs.begin || theirs.end <= mine.begin, op,
        "x is written in place, so it must share no memory with ", name);
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
  const std::int64_t piece = std::max<std::int64_t>(1, elements_a_piece / call.part_size());
  share_out(call.parts(), piece, [&](std::int64_t begin, std::int64_t end) { range(call, begin, end); });
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
  for (std::int64_t dim = 0; dim < x.dim(); ++dim)
    check(x.size(dim) == 1 || x.stride(dim) != 0, op,
          "x is written in place, so no two of its elements may share memory; clone it first");
  check_memory(x, grad, "grad");
  check_memory(x, origin, "origin");
  compute_any(call, x, grad, origin, x);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(unlearn, CPU, library) {
  library.impl("pgd_step", TORCH_BOX(&step));
  library.impl("pgd_step_", TORCH_BOX(&step_in_place));
}

}  // namespace unlearn
