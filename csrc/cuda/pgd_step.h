#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "element_type.h"

namespace unlearn {

// One L2 step, docs/maths.md (P2), (P4) and (P5), for samples that each are one run of memory.
struct PgdStepCuda {
  const void* x;       // `type` [count, size]
  const void* grad;    // `type` [count, size]
  const void* origin;  // `type` [count, size]: the centres of the balls
  void* out;           // `type` [count, size]; may be x
  ElementType type;    // of all four; not byte
  std::int64_t count, size;
  double step_size, eps, lower, upper;
  cudaStream_t stream;
};

// How many blocks share a sample, on the current device; 0 where they cannot hold one.
int pgd_step_l2_parts(const PgdStepCuda& call);

// Launches on call.stream and returns; errors of the launch are thrown. Not where there are 0 parts.
void pgd_step_l2(const PgdStepCuda& call);

}  // namespace unlearn
