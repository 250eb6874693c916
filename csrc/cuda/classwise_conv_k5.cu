#include "classwise_conv_tiles.cuh"

template void unlearn::classwise_conv_tiles<5>(const ClasswiseConvCuda& call);
