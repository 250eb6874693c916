#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace unlearn {

// A thread's work space, 64-byte aligned and kept between calls, since fresh pages cost more than the work.
template <typename S>
class Scratch {
 public:
  S* at_least(std::int64_t count) {
    if (count > size_) {
      data_.reset();
      data_.reset(new (std::align_val_t{64}) S[static_cast<std::size_t>(count)]);
      size_ = count;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(S* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<S[], Free> data_;
  std::int64_t size_ = 0;
};

}  // namespace unlearn
