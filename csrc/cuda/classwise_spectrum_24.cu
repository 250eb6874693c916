#include "classwise_spectrum.cuh"

namespace unlearn {

template void launch_images<24>(const ClasswiseSpectrumCuda&);
template void launch_part<24>(const ClasswiseSpectrumCuda&, Part, std::int64_t, std::int64_t);

}  // namespace unlearn
