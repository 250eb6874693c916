// CUDA C++ on a host compiler: what csrc/cuda uses of the language and its libraries, so that its kernels run as they
// stand on a machine without a GPU. Every thread of a block is a fiber that runs until a barrier or a shuffle; the
// blocks of a cluster are threads of the operating system, and __shared__ is thread_local. Blocks run one cluster
// after the other, threads in the order of their numbers or against it, as set_order() says. Only arithmetic that
// csrc/cuda uses is here, and rounds as the GPU's does.
#pragma once

#include <math.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ thread_local
#define __CUDA_ARCH__ 900

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace cuda_on_host {

void sync_block();
void sync_warp();
void sync_cluster();
std::uint64_t shuffle_xor(std::uint64_t bits, int mask);
void copy_later(void* to, const void* from, std::size_t bytes);  // when the thread waits for it
void copy_now();
void* in_block_of_cluster(void* own, int rank);
void run_grid(dim3 grid, dim3 block, unsigned cluster, std::size_t shared, const std::function<void()>& kernel);

}  // namespace cuda_on_host

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { cuda_on_host::sync_block(); }
inline void __syncwarp() { cuda_on_host::sync_warp(); }

inline void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes) {
  cuda_on_host::copy_later(to, from, bytes);
}
inline void __pipeline_commit() {}
inline void __pipeline_wait_prior(int) { cuda_on_host::copy_now(); }  // for 0 alone

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = cuda_on_host::shuffle_xor(bits, mask);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

namespace cooperative_groups {

struct cluster_group {
  void sync() const { cuda_on_host::sync_cluster(); }
  template <class T>
  T* map_shared_rank(T* own, int rank) const {
    return static_cast<T*>(cuda_on_host::in_block_of_cluster(own, rank));
  }
};
inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups

// Arithmetic.

template <class T>
T min(T a, T b) { return b < a ? b : a; }
template <class T>
T max(T a, T b) { return a < b ? b : a; }
template <class T>
T __ldg(const T* at) { return *at; }
template <class T>
void __stcs(T* at, T value) { *at = value; }

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fadd_rz(float a, float b) {
  const double exact = static_cast<double>(a) + static_cast<double>(b);  // for the magnitudes in use
  const float rounded = static_cast<float>(exact);
  return fabs(static_cast<double>(rounded)) > fabs(exact) ? nextafterf(rounded, 0) : rounded;
}
inline unsigned __float_as_uint(float a) {
  unsigned bits;
  std::memcpy(&bits, &a, 4);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float a;
  std::memcpy(&a, &bits, 4);
  return a;
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t both = static_cast<std::uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= (both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}

using __half = c10::Half;
using __nv_bfloat16 = c10::BFloat16;
inline float __half2float(__half a) { return a; }
inline float __bfloat162float(__nv_bfloat16 a) { return a; }
inline __half __float2half_rn(float a) { return a; }
inline __half __double2half(double a) { return static_cast<float>(a); }
inline __nv_bfloat16 __float2bfloat16_rn(float a) { return a; }

// The runtime, of which launches are all that do something.

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };
inline const char* cudaGetErrorString(cudaError_t) { return "invalid configuration argument"; }

enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMultiProcessorCount
};
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) { return cudaSuccess; }

// A device of two clusters at a time, or two blocks, so that kernels go on to a next image.
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveClusters(int* count, Kernel, const void*) { return *count = 2, cudaSuccess; }
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* count, Kernel, int, std::size_t) {
  return *count = 2, cudaSuccess;
}

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct { struct { unsigned x, y, z; } clusterDim; } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const unsigned cluster = config->numAttrs > 0 ? config->attrs[0].val.clusterDim.x : 1;
  if (config->gridDim.x % cluster != 0 || config->gridDim.x == 0 || config->blockDim.x > 1024)
    return cudaErrorInvalidConfiguration;
  cuda_on_host::run_grid(config->gridDim, config->blockDim, cluster, config->dynamicSmemBytes,
                         [&] { kernel(arguments...); });
  return cudaSuccess;
}
