// The GPU's arithmetic ceiling in float32: in every thread eight independent chains of fused multiply-adds.

#include <cuda_runtime.h>

constexpr int chains = 8;

__global__ void loop(int rounds, float* sink) {
  float chain[chains];
#pragma unroll
  for (int c = 0; c < chains; ++c) chain[c] = 1e-3f * static_cast<float>(threadIdx.x * chains + c);
  for (int r = 0; r < rounds; ++r) {
#pragma unroll
    for (int c = 0; c < chains; ++c) chain[c] = fmaf(chain[c], 0.999f, 1e-3f);
  }
  float total = 0;
#pragma unroll
  for (int c = 0; c < chains; ++c) total += chain[c];
  if (total == -1.0f) *sink = total;  // never so, but the compiler cannot know
}

extern "C" int fused_multiply_adds(int blocks, int threads, int rounds, float* sink, cudaStream_t stream) {
  loop<<<blocks, threads, 0, stream>>>(rounds, sink);
  return static_cast<int>(cudaGetLastError());
}
