// The L2 step on the GPU for samples too large for one program's registers, docs/maths.md (P2), (P4) and (P5):
// each needs ‖grad‖ before t = x + step·grad/‖grad‖, and ‖t − origin‖ before the result.
//
// The 1, 2, 4 or 8 blocks of a cluster (sm_90; elsewhere one block) hold a sample. Each keeps its share in shared
// memory, first grad, then t − origin in its place, and reads origin twice, the second time from the L2 cache: of a
// float32 element 12 bytes come from memory and 4 go there. A thread touches its own elements alone, so that nothing
// waits but for the two sums. Several blocks share a multiprocessor, and one computes while another loads.
#include "pgd_step.h"

#include <algorithm>
#include <climits>
#include <cstring>

#include "launch.h"
#include "pixels.cuh"
#include "reduce.cuh"

namespace unlearn {

namespace {

constexpr int most_threads = 512;

__device__ inline float number(double v, float) { return static_cast<float>(v); }
__device__ inline double number(double v, double) { return v; }

__device__ inline void store(float v, __half* to) { *to = __float2half_rn(v); }
__device__ inline void store(float v, __nv_bfloat16* to) { *to = __float2bfloat16_rn(v); }
__device__ inline void store(float v, float* to) { *to = v; }
__device__ inline void store(double v, double* to) { *to = v; }

// min(max(v, low), high); NaN stays.
template <class S>
__device__ S clamped(S v, S low, S high) {
  const S above = low > v ? low : v;
  return high < above ? high : above;
}

// How a sample is shared out: in packs of neighbouring elements, whole 16 bytes where these can be loaded at once.
struct Shares {
  std::int64_t packs, share;  // of a sample, and of each block but the last
  int parts;
};

template <class T, int PACK>
__device__ void load(const T* from, Compute<T> (&to)[PACK]) {
  alignas(16) T raw[PACK];
  if constexpr (PACK * sizeof(T) == 16) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(raw, &bits, 16);
  } else {
    raw[0] = *from;
  }
#pragma unroll
  for (int i = 0; i < PACK; ++i) to[i] = to_float(raw[i]);
}

template <class T, int PACK>
__device__ void store(const Compute<T> (&from)[PACK], T* to) {
  alignas(16) T raw[PACK];
#pragma unroll
  for (int i = 0; i < PACK; ++i) store(from[i], raw + i);
  if constexpr (PACK * sizeof(T) == 16) {
    uint4 bits;
    memcpy(&bits, raw, 16);
    *reinterpret_cast<uint4*>(to) = bits;
  } else {
    *to = raw[0];
  }
}

// What a thread keeps of a pack, in pieces of 16 bytes that neighbouring threads have side by side: of piece p of pack
// i the place is p·packs + i.
template <class S, int PACK>
struct Kept {
  static constexpr int width = PACK == 1 ? 1 : 16 / sizeof(S);
  struct alignas(width * sizeof(S)) Piece { S v[width]; };

  Piece* pieces;
  std::int64_t packs;

  __device__ void put(std::int64_t i, const S (&from)[PACK]) const {
#pragma unroll
    for (int p = 0; p < PACK / width; ++p) memcpy(pieces + p * packs + i, from + p * width, sizeof(Piece));
  }
  __device__ void get(std::int64_t i, S (&to)[PACK]) const {
#pragma unroll
    for (int p = 0; p < PACK / width; ++p) memcpy(to + p * width, pieces + p * packs + i, sizeof(Piece));
  }
};

}  // namespace

// Kernels in here are those whose speed is promised: tests/test_cuda_build.py refuses register spills in them.
namespace hot {

template <class T, int PACK>
__global__ void __launch_bounds__(most_threads)
    pgd_step_l2_samples(__grid_constant__ const PgdStepCuda call, __grid_constant__ const Shares shares) {
  using S = Compute<T>;
  extern __shared__ float4 space[];
  __shared__ double of_grad[32], of_distance[32], own_grad, own_distance;
  const auto add = [](double a, double b) { return a + b; };
  const int part = blockIdx.x % shares.parts;
  const std::int64_t first = part * shares.share, last = first + shares.share;
  const std::int64_t packs = (last < shares.packs ? last : shares.packs) - first;
  const Kept<S, PACK> kept{reinterpret_cast<typename Kept<S, PACK>::Piece*>(space), shares.share};
  const S lower = number(call.lower, S()), upper = number(call.upper, S());

  for (std::int64_t n = blockIdx.x / shares.parts; n < call.count; n += gridDim.x / shares.parts) {
    const std::int64_t begin = n * call.size + first * PACK;
    const T* x = static_cast<const T*>(call.x) + begin;
    const T* grad = static_cast<const T*>(call.grad) + begin;
    const T* origin = static_cast<const T*>(call.origin) + begin;
    T* out = static_cast<T*>(call.out) + begin;
    S g[PACK], d[PACK], o[PACK];

    double sum = 0;
#pragma unroll 2
    for (std::int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
      load<T, PACK>(grad + i * PACK, g);
      kept.put(i, g);
#pragma unroll
      for (int e = 0; e < PACK; ++e) sum += static_cast<double>(g[e]) * static_cast<double>(g[e]);
    }
    const double norm = sqrt(reduce_cluster(reduce_block(sum, of_grad, add), shares.parts, &own_grad, add));
    const double power = norm < 0x1p-100 ? 0x1p100 : norm > 0x1p100 ? 0x1p-100 : 1.0;
    const S by = number(call.step_size / (norm * power), S()), first_by = number(power, S());
    const bool steps = norm > 0 && norm < static_cast<double>(INFINITY);

    sum = 0;
#pragma unroll 2
    for (std::int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
      load<T, PACK>(x + i * PACK, d);
      load<T, PACK>(origin + i * PACK, o);
      kept.get(i, g);
#pragma unroll
      for (int e = 0; e < PACK; ++e) {
        d[e] = d[e] + (steps ? g[e] * first_by * by : S(0)) - o[e];
        sum += static_cast<double>(d[e]) * static_cast<double>(d[e]);
      }
      kept.put(i, d);
    }
    const double distance =
        sqrt(reduce_cluster(reduce_block(sum, of_distance, add), shares.parts, &own_distance, add));
    const S factor = number(distance <= call.eps ? 1.0 : call.eps / distance, S());

#pragma unroll 2
    for (std::int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
      load<T, PACK>(origin + i * PACK, o);
      kept.get(i, d);
#pragma unroll
      for (int e = 0; e < PACK; ++e) o[e] = clamped(o[e] + d[e] * factor, lower, upper);
      store<T, PACK>(o, out + i * PACK);
    }
  }
}

}  // namespace hot

namespace {

std::size_t shared_bytes(const PgdStepCuda& call, const Shares& shares, int pack) {
  const std::size_t element = call.type == ElementType::double_ ? 8 : 4;
  return static_cast<std::size_t>(shares.share) * pack * element;
}

// The fewest blocks of which three fit on a multiprocessor, or two, or one; 0 parts where none does.
Shares shared_out(const PgdStepCuda& call, int pack) {
  constexpr std::size_t reserved = 1024, sums = 1024;  // of each block: the system's, and ours and some to spare
  const std::size_t most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) + reserved;
  const int most_parts = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9 ? 8 : 1;
  const std::int64_t packs = call.size / pack;
  for (std::size_t together = 3; together > 0; --together)
    for (int parts = 1; parts <= most_parts; parts *= 2) {
      const Shares shares{packs, (packs + parts - 1) / parts, parts};
      if (shared_bytes(call, shares, pack) + reserved + sums <= most / together) return shares;
    }
  return {};
}

// Elements of a pack.
int pack_of(const PgdStepCuda& call) {
  const int pixels = call.type == ElementType::double_ ? 2 : call.type == ElementType::single ? 4 : 8;
  const void* tensors[] = {call.x, call.grad, call.origin, call.out};
  const bool whole = call.size % pixels == 0 && std::all_of(std::begin(tensors), std::end(tensors), [](const void* p) {
                       return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
                     });
  return whole ? pixels : 1;
}

template <class T, int PACK>
void launch_samples(const PgdStepCuda& call) {
  const auto kernel = hot::pgd_step_l2_samples<T, PACK>;
  const Shares shares = shared_out(call, PACK);
  const std::size_t shared = shared_bytes(call, shares, PACK);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
             "pgd_step: shared memory");
  const std::int64_t at_once = std::min<std::int64_t>(call.count, INT_MAX / shares.parts);
  const Launch where{static_cast<unsigned>(at_once), most_threads, call.stream, "pgd_step", shares.parts, shared};
  launch(kernel, where, call, shares);
}

template <class T>
void launch_packed(const PgdStepCuda& call) {
  if (pack_of(call) == 1) launch_samples<T, 1>(call);
  else launch_samples<T, 16 / sizeof(T)>(call);
}

}  // namespace

int pgd_step_l2_parts(const PgdStepCuda& call) { return shared_out(call, pack_of(call)).parts; }

void pgd_step_l2(const PgdStepCuda& call) {
  switch (call.type) {
    case ElementType::half: return launch_packed<__half>(call);
    case ElementType::bfloat16: return launch_packed<__nv_bfloat16>(call);
    case ElementType::single: return launch_packed<float>(call);
    case ElementType::double_: return launch_packed<double>(call);
    case ElementType::byte: return;  // refused before
  }
}

}  // namespace unlearn
