#pragma once

namespace unlearn {

enum class PixelType { byte, half, bfloat16, single, double_ };

}  // namespace unlearn
