// Class-wise spectrum in CUDA C++, docs/maths.md (S1) to (S10), with the bytes of the other backends.
//
// A block transforms columns or rows in place in shared memory, a lane each: passes over pairs of numbers, and leaves of
// LEAF numbers, each in the registers of a thread (ops/cosine_in_place.py). An image that fits a block's shared memory
// takes one launch and crosses device memory once. A larger one takes three, for columns, rows with the mixing, and
// columns, with float32 in between, for as many images at a time as the second cache holds.
//
//   shared memory   float: channels of [height, width] with a pad behind each row, or lanes of one side
//   threads         the lanes, times the parts that share a lane's pairs and leaves
#pragma once

#include <algorithm>
#include <cstdint>

#include "classwise_spectrum_parts.cuh"
#include "launch.h"

namespace unlearn {

constexpr int most_threads = 512, lanes_of_a_block = 32, threads_of_lanes = 8 * lanes_of_a_block;
constexpr int blocks_of_lanes = 2;  // at least so many a multiprocessor, or the compiler saves registers and spills

__device__ inline Share share_of_lanes(bool active) {
  return {static_cast<int>(threadIdx.x) / lanes_of_a_block, static_cast<int>(blockDim.x) / lanes_of_a_block, active};
}

// What a thread of a block for some columns does: image n of those in the work space, and the number of its column.
struct ColumnLane {
  int columns, number;
  std::int64_t n, size;

  __device__ explicit ColumnLane(const ClasswiseSpectrumCuda& call) : columns(call.channels * call.width) {
    const int blocks = (columns + lanes_of_a_block - 1) / lanes_of_a_block;
    n = blockIdx.x / blocks;
    number = blockIdx.x % blocks * lanes_of_a_block + threadIdx.x % lanes_of_a_block;
    size = static_cast<std::int64_t>(columns) * call.height;
  }
};

// Kernels in here are those whose speed is promised: tests/test_cuda_build.py refuses register spills in them.
namespace hot {

template <class T, int LEAF, int CHANNELS>
__global__ void __launch_bounds__(most_threads)
    classwise_spectrum_images(__grid_constant__ const ClasswiseSpectrumCuda call,
                              __grid_constant__ const LeafPlan<LEAF> plan) {
  extern __shared__ float4 space[];
  float* all = reinterpret_cast<float*>(space);
  const int channels = CHANNELS ? CHANNELS : call.channels, height = call.height, width = call.width;
  const int columns = channels * width, rows = channels * height, threads = blockDim.x, thread = threadIdx.x;
  const std::int64_t size = static_cast<std::int64_t>(columns) * height;
  const Rows where = distances(call);
  const Share of_columns{thread / columns, threads / columns, thread < threads / columns * columns};
  const Share of_rows{thread / rows, threads / rows, thread < threads / rows * rows};
  const Column column(call, thread % columns);
  float* const down = all + column.channel * where.plane + column.x;
  float* const across = all + thread % rows / height * where.plane + thread % rows % height * where.row;
  const float* const finished =
      all + column.channel * where.plane + __ldg(call.places + call.back_across.out + column.x);

  for (std::int64_t n = blockIdx.x; n < call.count; n += gridDim.x) {
    const T* image = static_cast<const T*>(call.images) + n * size;
    T* out = static_cast<T*>(call.out) + n * size;
    const std::int64_t label = class_of(call, n);
    if (label < 0) {
      for (int i = thread; i < size; i += threads) out[i] = image[i];
      continue;
    }
    if (of_columns.active)
      for (int y = of_columns.part; y < height; y += of_columns.parts)
        down[y * where.row] = to_float(image[column.first + y * column.step]);
    __syncthreads();
    transform<LEAF, false>(call, call.down, plan, down, where.row, of_columns);
    transform<LEAF, false>(call, call.across, plan, across, 1, of_rows);
    mix<CHANNELS>(call, label, all, where, 0, height, call.places + call.down.out);
    transform<LEAF, true>(call, call.back_across, plan, across, 1, of_rows);
    transform<LEAF, true>(call, call.back_down, plan, down, where.row, of_columns);
    if (of_columns.active) {
      const Curve<T> curve(call, label, column.channel);
      for (int y = of_columns.part; y < height; y += of_columns.parts)
        out[column.first + y * column.step] = curve(finished[__ldg(call.places + call.back_down.out + y) * where.row]);
    }
    __syncthreads();
  }
}

template <class T, int LEAF>
__global__ void __launch_bounds__(threads_of_lanes, blocks_of_lanes)
    classwise_spectrum_columns(__grid_constant__ const ClasswiseSpectrumCuda call,
                               __grid_constant__ const LeafPlan<LEAF> plan, std::int64_t first_image) {
  extern __shared__ float4 space[];
  const auto [columns, number, n, size] = ColumnLane(call);
  const Share share = share_of_lanes(number < columns);
  if (class_of(call, first_image + n) < 0) return;
  float* const at = reinterpret_cast<float*>(space) + threadIdx.x % lanes_of_a_block;
  if (share.active) {
    const Column column(call, number);
    const T* image = static_cast<const T*>(call.images) + (first_image + n) * size + column.first;
    for (int y = share.part; y < call.height; y += share.parts)
      at[y * lanes_of_a_block] = to_float(image[y * column.step]);
  }
  __syncthreads();
  transform<LEAF, false>(call, call.down, plan, at, lanes_of_a_block, share);
  if (share.active) {
    float* work = call.work + n * size + number;
    for (int u = share.part; u < call.height; u += share.parts)
      work[static_cast<std::int64_t>(u) * columns] = at[__ldg(call.places + call.down.out + u) * lanes_of_a_block];
  }
}

template <int LEAF, int CHANNELS>
__global__ void __launch_bounds__(threads_of_lanes, blocks_of_lanes)
    classwise_spectrum_rows(__grid_constant__ const ClasswiseSpectrumCuda call,
                            __grid_constant__ const LeafPlan<LEAF> plan, std::int64_t first_image) {
  extern __shared__ float4 space[];
  float* all = reinterpret_cast<float*>(space);
  const int channels = CHANNELS ? CHANNELS : call.channels, width = call.width, columns = channels * width;
  const int most = lanes_of_a_block / channels, blocks = (call.height + most - 1) / most;
  const std::int64_t n = blockIdx.x / blocks;
  const int first = blockIdx.x % blocks * most, rows = min(most, call.height - first);
  const int lane = threadIdx.x % lanes_of_a_block, plane = width + 1;
  const Share share = share_of_lanes(lane < rows * channels);
  const std::int64_t label = class_of(call, first_image + n);
  if (label < 0) return;
  float* work = call.work + (n * call.height + first) * columns;
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
    const InRow in(call, channels, i);
    all[in.lane * plane + in.x] = work[i];
  }
  __syncthreads();
  float* const at = all + lane * plane;
  transform<LEAF, false>(call, call.across, plan, at, 1, share);
  mix<CHANNELS>(call, label, all, Rows{channels * plane, plane}, first, rows, nullptr);
  transform<LEAF, true>(call, call.back_across, plan, at, 1, share);
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
    const InRow in(call, channels, i);
    work[i] = all[in.lane * plane + __ldg(call.places + call.back_across.out + in.x)];
  }
}

template <class T, int LEAF>
__global__ void __launch_bounds__(threads_of_lanes, blocks_of_lanes)
    classwise_spectrum_columns_back(__grid_constant__ const ClasswiseSpectrumCuda call,
                                    __grid_constant__ const LeafPlan<LEAF> plan, std::int64_t first_image) {
  extern __shared__ float4 space[];
  const auto [columns, number, n, size] = ColumnLane(call);
  const Share share = share_of_lanes(number < columns);
  const Column column(call, share.active ? number : 0);
  const std::int64_t label = class_of(call, first_image + n), begin = (first_image + n) * size + column.first;
  const T* image = static_cast<const T*>(call.images) + begin;
  T* out = static_cast<T*>(call.out) + begin;
  if (label < 0) {
    if (share.active)
      for (int y = share.part; y < call.height; y += share.parts) out[y * column.step] = image[y * column.step];
    return;
  }
  float* const at = reinterpret_cast<float*>(space) + threadIdx.x % lanes_of_a_block;
  if (share.active) {
    const float* work = call.work + n * size + number;
    for (int u = share.part; u < call.height; u += share.parts)
      at[__ldg(call.places + call.down.out + u) * lanes_of_a_block] = work[static_cast<std::int64_t>(u) * columns];
  }
  __syncthreads();
  transform<LEAF, true>(call, call.back_down, plan, at, lanes_of_a_block, share);
  if (share.active) {
    const Curve<T> curve(call, label, column.channel);
    for (int y = share.part; y < call.height; y += share.parts)
      out[y * column.step] = curve(at[__ldg(call.places + call.back_down.out + y) * lanes_of_a_block]);
  }
}

}  // namespace hot

inline std::size_t bytes_of_an_image(const ClasswiseSpectrumCuda& call) {
  return sizeof(float) * static_cast<std::size_t>(distances(call).plane) * static_cast<std::size_t>(call.channels);
}

template <class Kernel>
void allow_shared(Kernel kernel, std::size_t bytes) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
             "classwise_spectrum: shared memory");
}

// In one launch: both sides have leaves of LEAF numbers.
template <int LEAF>
void launch_images(const ClasswiseSpectrumCuda& call) {
  const auto with = [&](auto kernel) {
    const std::size_t shared = bytes_of_an_image(call);
    allow_shared(kernel, shared);
    const int lanes = call.channels * std::max(call.height, call.width);
    const int parts = std::max(1, std::min(1 << call.down.levels, most_threads / lanes));
    const unsigned threads = static_cast<unsigned>((lanes * parts + 31) / 32 * 32);
    Launch where{1, threads, call.stream, "classwise_spectrum", 1, shared};
    where.clusters = static_cast<unsigned>(std::min<std::int64_t>(call.count, resident(kernel, where)));
    launch(kernel, where, call, LeafPlan<LEAF>::filled());
  };
  if (call.type != ElementType::byte) with(hot::classwise_spectrum_images<float, LEAF, 0>);
  else if (call.channels == 3) with(hot::classwise_spectrum_images<std::uint8_t, LEAF, 3>);
  else with(hot::classwise_spectrum_images<std::uint8_t, LEAF, 0>);
}

enum class Part { columns, rows, columns_back };

inline std::size_t bytes_of_lanes(const ClasswiseSpectrumCuda& call, Part part) {
  const int numbers = part == Part::rows ? call.width + 1 : call.height;
  return sizeof(float) * lanes_of_a_block * static_cast<std::size_t>(numbers);
}

// A third of the work for `images` images from `first` on, whose side has leaves of LEAF numbers.
template <int LEAF>
void launch_part(const ClasswiseSpectrumCuda& call, Part part, std::int64_t first, std::int64_t images) {
  const SpectrumSide& side = part == Part::rows ? call.across : call.down;
  const int columns = call.channels * call.width, rows = lanes_of_a_block / call.channels;
  const int blocks = part == Part::rows ? (call.height + rows - 1) / rows
                                        : (columns + lanes_of_a_block - 1) / lanes_of_a_block;
  const std::size_t shared = bytes_of_lanes(call, part);
  const int parts = std::clamp(1 << side.levels, 4, threads_of_lanes / lanes_of_a_block);
  const unsigned threads = static_cast<unsigned>(lanes_of_a_block * parts);
  const Launch where{static_cast<unsigned>(blocks * images), threads, call.stream, "classwise_spectrum", 1, shared};
  const auto with = [&](auto kernel) {
    allow_shared(kernel, shared);
    launch(kernel, where, call, LeafPlan<LEAF>::filled(), first);
  };
  const bool bytes = call.type == ElementType::byte;
  switch (part) {
    case Part::columns:
      if (bytes) return with(hot::classwise_spectrum_columns<std::uint8_t, LEAF>);
      return with(hot::classwise_spectrum_columns<float, LEAF>);
    case Part::rows:
      if (call.channels == 3) return with(hot::classwise_spectrum_rows<LEAF, 3>);
      return with(hot::classwise_spectrum_rows<LEAF, 0>);
    case Part::columns_back:
      if (bytes) return with(hot::classwise_spectrum_columns_back<std::uint8_t, LEAF>);
      return with(hot::classwise_spectrum_columns_back<float, LEAF>);
  }
}

}  // namespace unlearn
