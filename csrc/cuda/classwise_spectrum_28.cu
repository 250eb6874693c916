#include "classwise_spectrum.cuh"

namespace unlearn {

template void launch_images<28>(const ClasswiseSpectrumCuda&);
template void launch_part<28>(const ClasswiseSpectrumCuda&, Part, std::int64_t, std::int64_t);

}  // namespace unlearn
