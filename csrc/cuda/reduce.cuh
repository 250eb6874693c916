// Reductions over a block, in an order that the block's size alone fixes.
#pragma once

namespace unlearn {

// combine() over the values of all threads, returned to all of them. `scratch` holds 32 values and is free again
// after the block's next barrier. Every warp is whole.
template <class S, class Combine>
__device__ S reduce_block(S value, S* scratch, Combine combine) {
  for (int lane = 16; lane > 0; lane /= 2) value = combine(value, __shfl_xor_sync(~0u, value, lane));
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0) scratch[warp] = value;
  __syncthreads();
  value = scratch[0];
  for (int w = 1; w < warps; ++w) value = combine(value, scratch[w]);
  return value;
}

}  // namespace unlearn
