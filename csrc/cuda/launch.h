#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

namespace unlearn {

// Throws one line that says which call failed and why; PyTorch turns it into RuntimeError.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": CUDA reports: " + cudaGetErrorString(status));
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device), "the current device");
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "a device attribute");
  return value;
}

struct Launch {
  unsigned clusters, threads;
  cudaStream_t stream;
  const char* what;
  int parts = 1;  // blocks of a cluster; more than one needs sm_90
  std::size_t shared = 0;
};

// The launch's settings as the runtime takes them; `cluster` must outlive them.
inline cudaLaunchConfig_t configured(const Launch& where, cudaLaunchAttribute& cluster) {
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(where.parts), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(where.clusters * static_cast<unsigned>(where.parts));
  config.blockDim = dim3(where.threads);
  config.dynamicSmemBytes = where.shared;
  config.stream = where.stream;
  config.attrs = &cluster;
  config.numAttrs = where.parts > 1 ? 1 : 0;
  return config;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& where, const Arguments&... arguments) {
  cudaLaunchAttribute cluster{};
  const cudaLaunchConfig_t config = configured(where, cluster);
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), where.what);
}

// How many clusters, or blocks where these stand alone, the device runs at a time.
template <class... Parameters>
unsigned resident(void (*kernel)(Parameters...), const Launch& where) {
  int count = 0;
  if (where.parts > 1) {
    cudaLaunchAttribute cluster{};
    const cudaLaunchConfig_t config = configured(where, cluster);
    check_cuda(cudaOccupancyMaxActiveClusters(&count, kernel, &config), where.what);
  } else {
    check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&count, kernel, static_cast<int>(where.threads),
                                                             where.shared),
               where.what);
    count *= device_attribute(cudaDevAttrMultiProcessorCount);
  }
  return static_cast<unsigned>(count > 0 ? count : 1);
}

}  // namespace unlearn
