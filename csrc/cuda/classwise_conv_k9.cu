#include "classwise_conv_tiles.cuh"

template void unlearn::classwise_conv_tiles<9>(const ClasswiseConvCuda& call);
