#pragma once

#include <sstream>
#include <stdexcept>

namespace unlearn {

// Throws one line made of the parts; PyTorch turns it into RuntimeError.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace unlearn
