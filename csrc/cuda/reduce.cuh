// Reductions over a block or a cluster, in an order that their sizes alone fix.
#pragma once

#include <cooperative_groups.h>

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

// combine() over the values of the blocks of a cluster, each the same in all threads of its block; returned to all of
// them. `own` is this block's place for its value, in shared memory.
template <class S, class Combine>
__device__ S reduce_cluster(S value, int parts, S* own, Combine combine) {
#if __CUDA_ARCH__ >= 900
  if (parts > 1) {
    const auto cluster = cooperative_groups::this_cluster();
    if (threadIdx.x == 0) *own = value;
    cluster.sync();
    value = *cluster.map_shared_rank(own, 0);
    for (int part = 1; part < parts; ++part) value = combine(value, *cluster.map_shared_rank(own, part));
    cluster.sync();
  }
#endif
  return value;
}

}  // namespace unlearn
