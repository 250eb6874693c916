// The projected gradient step in portable C++, for every other processor.

#define UNLEARN_TARGET
#define UNLEARN_NAMESPACE portable
#include "pgd_step_kernel.h"

namespace unlearn {

void pgd_step_portable(const PgdStep& call, std::int64_t begin, std::int64_t end) {
  portable::run_any(call, begin, end);
}

}  // namespace unlearn
