#pragma once

// The checks of arguments that operators share, in the words of unlearnable_kernels/ops/checks.py. `op` is what every
// message begins with: "pgd_step: ".

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "element_type.h"

namespace unlearn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_of(const Tensor& t) {
  std::string text;
  for (std::int64_t dim = 0; dim < t.dim(); ++dim) text += (dim ? ", " : "") + std::to_string(t.size(dim));
  return "[" + text + "]";
}

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: return torch::headeronly::toString(type);
  }
}

// "a, b and c".
template <class Names>
std::string listed(const Names& names, const char* last) {
  std::string text;
  std::size_t left = names.size();
  for (const auto& name : names) {
    text += name;
    if (--left > 0) text += left == 1 ? std::string(" ") + last + " " : ", ";
  }
  return text;
}

inline void check_dtype(const char* op, const char* name, ScalarType type, std::initializer_list<ScalarType> allowed) {
  if (std::find(allowed.begin(), allowed.end(), type) != allowed.end()) return;
  std::vector<std::string> names;
  for (const ScalarType each : allowed) names.push_back(name_of(each));
  check(false, op, name, " must be ", listed(names, "or"), ", got ", name_of(type));
}

// After check_dtype.
inline ElementType element_type(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return ElementType::byte;
    case ScalarType::Half: return ElementType::half;
    case ScalarType::BFloat16: return ElementType::bfloat16;
    case ScalarType::Double: return ElementType::double_;
    default: return ElementType::single;
  }
}

inline void check_layout(const char* op, const char* name, const Tensor& t, bool fits, const char* wanted) {
  check(fits, op, name, " must be ", wanted, ", got ", t.dim(), " dimensions");
}

// Dtype and dimensions together, for tensors that allow one dtype.
inline void check_typed(const char* op, const char* name, const Tensor& t, ScalarType type, std::int64_t dims,
                        const char* wanted) {
  check(t.dim() == dims && t.scalar_type() == type, op, name, " must be ", name_of(type), " ", wanted, ", got ",
        name_of(t.scalar_type()), " with ", t.dim(), " dimensions");
}

inline void check_labels(const char* op, const Tensor& labels, std::int64_t count, const char* of,
                         const char* dimension = "[N]") {
  check_typed(op, "labels", labels, ScalarType::Long, 1, dimension);
  check(labels.size(0) == count, op, "labels must hold one label for each of the ", count, " ", of, ", got ",
        labels.size(0));
}

// Shape, dtype and device of x.
inline void check_like_x(const char* op, const char* name, const Tensor& t, const Tensor& x) {
  check(shape_of(t) == shape_of(x), op, name, " must have x's shape ", shape_of(x), ", got ", shape_of(t));
  check(t.scalar_type() == x.scalar_type(), op, name, " must have x's dtype ", name_of(x.scalar_type()), ", got ",
        name_of(t.scalar_type()));
  check(t.device() == x.device(), op, name, " must be on x's device", x.is_cpu() ? " cpu" : "");
}

inline void check_one_device(const char* op, std::initializer_list<std::pair<const char*, const Tensor*>> tensors) {
  const Tensor* first = nullptr;
  bool same = true;
  std::vector<std::string> names;
  for (const auto& [name, t] : tensors) {
    if (t == nullptr) continue;
    if (first == nullptr) first = t;
    same = same && t->device() == first->device();
    names.push_back(name);
  }
  check(same, op, listed(names, "and"), " must be on one device");
}

// The place of the value among those allowed.
inline std::size_t check_one_of(const char* op, const char* name, const std::string& value,
                                std::initializer_list<const char*> allowed) {
  const auto at = std::find(allowed.begin(), allowed.end(), value);
  std::string names;
  for (const char* each : allowed) names += (names.empty() ? "" : ", ") + std::string(each);
  check(at != allowed.end(), op, name, " must be one of ", names, ", got '", value, "'");
  return static_cast<std::size_t>(at - allowed.begin());
}

inline void check_within(const char* op, const char* name, std::int64_t value, std::int64_t low, std::int64_t high,
                         const std::string& why = "") {
  check(low <= value && value <= high, op, name, " must lie in [", low, ", ", high, "]", why, ", got ", value);
}

inline void check_positive(const char* op, const char* name, double value) {
  check(std::isfinite(value) && value > 0, op, name, " must be finite and greater than 0, got ", value);
}

// What every operator on a kernel posterior over `count` rows called `of` refuses.
inline void check_posterior(const char* op, const Tensor& labels, std::int64_t count, const char* of,
                            std::int64_t classes, double bandwidth, const char* dimension = "[N]") {
  check_labels(op, labels, count, of, dimension);
  check_within(op, "num_classes", classes, 1, 1 << 24);
  check_positive(op, "bandwidth", bandwidth);
}

// What every operator that ends in a projected gradient step refuses. Returns whether the norm is l2.
inline bool check_step(const char* op, double step_size, double eps, const std::string& norm, double lower,
                       double upper) {
  const bool l2 = check_one_of(op, "norm", norm, {"linf", "l2"}) == 1;
  check(std::isfinite(step_size), op, "step_size must be finite, got ", step_size);
  check(eps >= 0, op, "eps must be at least 0, got ", eps);
  check(lower <= upper, op, "lower must be at most upper, got ", lower, " and ", upper);
  return l2;
}

// Every value of a dense tensor on the CPU in [low, end), or in [low, end] where `closed`; named by row, and by column
// where there are several.
inline void check_values_within(const char* op, const char* name, const Tensor& t, std::int64_t low, std::int64_t end,
                                bool closed = false) {
  const std::int64_t* value = t.const_data_ptr<std::int64_t>();
  const std::int64_t columns = t.dim() == 2 ? t.size(1) : 1, highest = closed ? end : end - 1;
  for (std::int64_t n = 0; n < t.numel(); ++n) {
    if (value[n] >= low && value[n] <= highest) continue;
    const std::string column = t.dim() == 2 ? ", " + std::to_string(n % columns) : "";
    check(false, op, name, "[", n / columns, column, "] is ", value[n], ", but must lie in [", low, ", ", end,
          closed ? "]" : ")");
  }
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

// The bytes from a tensor's first to its last element.
struct Memory {
  const char* begin;
  const char* end;

  explicit Memory(const Tensor& t) : begin(static_cast<const char*>(t.data_ptr())), end(begin) {
    if (t.numel() == 0) return;
    std::int64_t reach = 1;
    for (std::int64_t dim = 0; dim < t.dim(); ++dim) reach += (t.size(dim) - 1) * t.stride(dim);
    end += reach * static_cast<std::int64_t>(t.element_size());
  }
};

// Whether two elements of a tensor have one address.
inline bool overlaps_itself(const Tensor& t) {
  std::vector<std::pair<std::int64_t, std::int64_t>> dims;
  for (std::int64_t dim = 0; dim < t.dim(); ++dim)
    if (t.size(dim) > 1) dims.emplace_back(t.stride(dim), t.size(dim));
  std::sort(dims.begin(), dims.end());
  std::int64_t reach = 0;
  bool nested = true;
  for (const auto& [step, size] : dims) {
    nested = nested && step > reach;  // each dimension steps over all inner ones
    reach += (size - 1) * step;
  }
  if (nested || t.numel() == 0) return false;
  if (t.numel() > reach + 1) return true;
  std::vector<std::int64_t> offsets{0};
  for (const auto& [step, size] : dims) {
    const std::size_t count = offsets.size();
    for (std::int64_t i = 1; i < size; ++i)
      for (std::size_t at = 0; at < count; ++at) offsets.push_back(offsets[at] + i * step);
  }
  std::sort(offsets.begin(), offsets.end());
  return std::adjacent_find(offsets.begin(), offsets.end()) != offsets.end();
}

inline void check_separate(const char* op, const char* name, const Tensor& written, const char* other, const Tensor& t) {
  const Memory mine(written), theirs(t);
  check(mine.begin == mine.end || theirs.begin == theirs.end || mine.end <= theirs.begin || theirs.end <= mine.begin, op,
        name, " is written in place, so it must share no memory with ", other);
}

}  // namespace unlearn
