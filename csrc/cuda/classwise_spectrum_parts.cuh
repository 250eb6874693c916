// The parts of class-wise spectrum's kernels in CUDA C++, docs/maths.md (S1) to (S10): transforms in place in shared
// memory, mixing and tone curves, each for the calling thread's lane.
#pragma once

#include "classwise_spectrum.h"

#include <algorithm>
#include <type_traits>

#include "cosine_plan.h"
#include "pixels.cuh"

#define UNLEARN_NAMESPACE cuda
#define UNLEARN_INLINE __device__ __forceinline__
#define UNLEARN_LAMBDA
#include "cosine_registers.h"

namespace unlearn {

// A transform's number, as cosine_registers.h takes it.
struct Number {
  using Scalar = float;
  float value;

  __device__ static Number set1(float x) { return {x}; }
  __device__ static Number add(Number a, Number b) { return {a.value + b.value}; }
  __device__ static Number sub(Number a, Number b) { return {a.value - b.value}; }
  __device__ static Number mul(Number a, Number b) { return {__fmul_rn(a.value, b.value)}; }
  __device__ static Number fma(Number a, Number b, Number c) { return {__fmaf_rn(a.value, b.value, c.value)}; }
};

// A CosinePlan in an array, whose indices are constants where everything is inlined: a kernel's parameter then is an
// operand of its instructions.
template <int LEAF>
struct LeafPlan {
  static constexpr int odd = LEAF / (LEAF & -LEAF);
  static constexpr int turns = 4 * LEAF - 4 * odd, sums = (odd + 1) / 2, differences = odd / 2;
  static constexpr int even = turns, uneven = even + sums * sums, last = uneven + differences * differences;
  float values[last + odd * odd];

  __device__ const float* turn(int level) const { return values + (4 * LEAF - (4 * LEAF >> level)); }
  __device__ const float* even_row() const { return values + even; }
  __device__ const float* odd_row() const { return values + uneven; }
  __device__ const float* fourth_row() const { return values + last; }

  static LeafPlan filled() {
    const CosinePlan<float> plan(LEAF);
    LeafPlan made;
    float* to = made.values;
    for (const auto& turn : plan.turns) to = std::copy(turn.begin(), turn.end(), to);
    for (const auto* row : {&plan.even_rows, &plan.odd_rows, &plan.fourth}) to = std::copy(row->begin(), row->end(), to);
    return made;
  }
};

enum LeafKind { second_kind, third_kind, fourth_kind };

// The threads of a lane: this one does every `parts`-th pair or leaf from `part` on, if at all.
struct Share {
  int part, parts;
  bool active;
};

// A leaf of numbers `along` apart, or at `places`.
template <int LEAF, int KIND, bool PLACED>
__device__ __forceinline__ void transform_leaf(const LeafPlan<LEAF>& plan, float* at, const int* places, int along) {
  using Leaf = cuda::InRegisters<Number, LeafPlan<LEAF>, LEAF>;
  Number x[LEAF], y[LEAF];
  cuda::each<LEAF>([&](auto i) { x[i].value = at[(PLACED ? __ldg(places + i) : i) * along]; });
  if constexpr (KIND == second_kind) Leaf::second(plan, 0, x, y);
  if constexpr (KIND == third_kind) Leaf::third(plan, 0, x, y);
  if constexpr (KIND == fourth_kind) Leaf::fourth(plan, 0, x, y);
  cuda::each<LEAF>([&](auto i) { at[(PLACED ? __ldg(places + i) : i) * along] = y[i].value; });
}

__device__ __forceinline__ void pass_over_pairs(const ClasswiseSpectrumCuda& call, SpectrumSide::Pass pass, float* at,
                                                int along, Share share) {
  if (!share.active) return;
  for (int i = pass.first + share.part; i < pass.first + pass.count; i += share.parts) {
    const unsigned pair = __ldg(call.pairs + i);
    const float4 by = __ldg(reinterpret_cast<const float4*>(call.factors) + i);
    float &first = at[(pair & 0xffffu) * along], &other = at[(pair >> 16) * along];
    const float a = first, b = other;
    first = __fmaf_rn(by.y, a, __fmul_rn(by.x, b));
    other = __fmaf_rn(by.w, a, __fmul_rn(by.z, b));
  }
}

// (S1), or its adjoint if INVERSE, of this thread's lane, whose numbers lie `along` apart from `at` on. The block's
// threads have met before and meet at the end.
template <int LEAF, bool INVERSE>
__device__ __forceinline__ void transform(const ClasswiseSpectrumCuda& call, const SpectrumSide& side,
                                          const LeafPlan<LEAF>& plan, float* at, int along, Share share) {
  constexpr int own_kind = INVERSE ? third_kind : second_kind;
  if (side.levels == 0) {
    if (share.active && share.part == 0) transform_leaf<LEAF, own_kind, false>(plan, at, nullptr, along);
    __syncthreads();
    return;
  }
  for (int level = 0; level < side.levels; ++level) {
    pass_over_pairs(call, side.before[level], at, along, share);
    __syncthreads();
  }
  if (share.active)
    for (int leaf = share.part; leaf < 1 << side.levels; leaf += share.parts) {
      const int* places = call.places + side.leaves + leaf * LEAF;
      switch (__ldg(call.places + side.kinds + leaf)) {
        case second_kind: transform_leaf<LEAF, second_kind, true>(plan, at, places, along); break;
        case fourth_kind: transform_leaf<LEAF, fourth_kind, true>(plan, at, places, along); break;
        default: if constexpr (INVERSE) transform_leaf<LEAF, third_kind, true>(plan, at, places, along);
      }
    }
  __syncthreads();
  for (int level = 0; level < side.levels; ++level) {
    pass_over_pairs(call, side.after[level], at, along, share);
    __syncthreads();
  }
}

// Where (r, v, c) of a few rows lies: v is a place, r the number of a row's place.
struct Rows {
  int row, plane;
};

// (S3) of `rows` rows from `first_row` on, of which `row_places` tells the places, or null for their order. A warp takes
// the channels of some frequencies at a time, a thread each, so that weights are read in their order.
template <int CHANNELS>
__device__ __forceinline__ void mix(const ClasswiseSpectrumCuda& call, std::int64_t label, float* at, Rows where,
                                    int first_row, int rows, const int* row_places) {
  const int channels = CHANNELS ? CHANNELS : call.channels, together = 32 / channels;
  const int lane = threadIdx.x % 32, c = lane % channels, width = call.width, count = rows * width;
  const int step = static_cast<int>(blockDim.x / 32) * together;
  const float scale = static_cast<float>(4 / static_cast<double>(call.height * width));
  const float* weights = call.weights + (label * call.height + first_row) * width * channels * channels;
  for (int some = threadIdx.x / 32 * together; some < count; some += step) {
    const int frequency = some + lane / channels;
    const bool valid = lane < together * channels && frequency < count;
    float total = 0;
    float* to = at;
    if (valid) {
      const int row = frequency / width, v = frequency % width;
      to += (row_places ? __ldg(row_places + row) : row) * where.row + __ldg(call.places + call.across.out + v);
      const float* matrix = weights + (static_cast<std::int64_t>(frequency) * channels + c) * channels;
      const float factor = scale * (first_row + row == 0 ? 0.5f : 1.f) * (v == 0 ? 0.5f : 1.f);
      total = __fmul_rn(__ldg(matrix), __fmul_rn(to[0], factor));
#pragma unroll
      for (int d = 1; d < channels; ++d)
        total = __fmaf_rn(__ldg(matrix + d), __fmul_rn(to[d * where.plane], factor), total);
      to += c * where.plane;
    }
    __syncwarp();
    if (valid) *to = total;
  }
  __syncthreads();
}

// (S4) and (S9) of one channel: its curve, of which the first sines are kept in registers.
template <class T>
struct Curve {
  static constexpr int kept = 4;
  const float* curve;
  int sines;
  float amplitudes[kept], phases[kept];

  __device__ Curve(const ClasswiseSpectrumCuda& call, std::int64_t label, int channel)
      : curve(call.curves + (label * call.channels + channel) * call.sines * 2), sines(call.sines) {
#pragma unroll
    for (int f = 0; f < kept; ++f) {
      amplitudes[f] = f < sines ? __ldg(curve + 2 * f) : 0;
      phases[f] = f < sines ? phase(f) : 0;
    }
  }

  __device__ float phase(int f) const { return __fmul_rn(__ldg(curve + 2 * f + 1), 0.15915494309189535f); }

  // total + amplitude · sin(1.5π f y + phase), (S10)
  __device__ static float add_sine(float total, float y, float amplitude, float phase, int f) {
    const float turns = __fmaf_rn(0.75f * static_cast<float>(f), y, phase), rest = turns - rintf(turns);
    const float square = __fmul_rn(rest, rest);
    float polynomial = 3.0583252906799316f;
    polynomial = __fmaf_rn(polynomial, square, -9.53079891204834f);
    polynomial = __fmaf_rn(polynomial, square, 16.760974884033203f);
    polynomial = __fmaf_rn(polynomial, square, -16.208669662475586f);
    polynomial = __fmaf_rn(polynomial, square, 6.283182621002197f);
    const float roots = __fmul_rn(rest, __fmaf_rn(square, -4.f, 1.f));
    return __fmaf_rn(polynomial, __fmul_rn(roots, amplitude), total);
  }

  __device__ T operator()(float y) const {
    float z = y;
#pragma unroll
    for (int f = 0; f < kept; ++f)
      if (f < sines) z = add_sine(z, y, amplitudes[f], phases[f], f + 1);
    for (int f = kept; f < sines; ++f) z = add_sine(z, y, __ldg(curve + 2 * f), phase(f), f + 1);
    if constexpr (std::is_same_v<T, std::uint8_t>)  // the nearest whole number is the mantissa's last byte
      return static_cast<std::uint8_t>(__float_as_uint(__fmul_rn(fminf(fmaxf(z, 0.f), 1.f), 255.f) + 8388608.f));
    else
      return z;
  }
};

// A column of an image: its channel, its place among the channel's columns, and where its pixels lie.
struct Column {
  int channel, x;
  std::int64_t first, step;

  __device__ Column(const ClasswiseSpectrumCuda& call, int number)
      : channel(call.last ? number % call.channels : number / call.width),
        x(call.last ? number / call.channels : number % call.width),
        first(call.last ? number : static_cast<std::int64_t>(channel) * call.height * call.width + x),
        step(call.last ? call.width * call.channels : call.width) {}
};

// Element i of some rows of the work space: its lane, one for each row's channel, and its place in it.
struct InRow {
  int lane, x;

  __device__ InRow(const ClasswiseSpectrumCuda& call, int channels, int i) {
    const int columns = channels * call.width, number = i % columns;
    x = call.last ? number / channels : number % call.width;
    lane = i / columns * channels + (call.last ? number % channels : number / call.width);
  }
};

__device__ inline std::int64_t class_of(const ClasswiseSpectrumCuda& call, std::int64_t n) {
  const std::int64_t label = call.labels[n];
  return label < call.classes ? label : -1;  // a wrong one stops the GPU elsewhere, and is not followed
}

// Distances in shared memory of an image: odd, so that neither columns nor rows meet in a bank; and channels of
// interleaved columns not in the same one.
__host__ __device__ inline Rows distances(const ClasswiseSpectrumCuda& call) {
  const int row = call.width + 1, plane = row * call.height, apart = (31 + call.channels) / call.channels;
  return {row, plane + ((apart - plane) % 32 + 32) % 32};
}

}  // namespace unlearn
