// The kernel in portable C++: every other processor.

#define UNLEARN_TARGET
#define UNLEARN_NAMESPACE portable
#include "crop_flip_kernel.h"

namespace unlearn {

void crop_flip_portable(const CropFlip& call, std::int64_t begin, std::int64_t end) {
  portable::run_any(call, begin, end);
}

}  // namespace unlearn
