// Class-wise convolution forward on the GPU for k = 3, 5 and 9, docs/maths.md (1) to (4):
//   images   T [N, C, H, W] or [N, H, W, C]   uint8, float16, bfloat16 or float32
//   labels   int64 [N]                        a row of filters, or −1: the image is copied
//   filters  float32 [K, k, k]
//   out      T, laid out like images
//
// An image is cut into tiles, a tile into patches of 4 rows by 8 columns of one channel, one patch a thread. A
// block brings a tile with its margin into shared memory as floats, computes its patches into registers, and
// reduces the maximum on chip. Where one block cannot hold an image, the 2, 4 or 8 blocks of a cluster (sm_90)
// do, and share their maxima through distributed shared memory; where those cannot either, each block goes over
// its tiles twice, once for the maximum and once to write. No float ever goes to global memory.
// A block that has a multiprocessor to itself brings the next image's pixels as they are stored, by asynchronous copies,
// while it computes this one's; otherwise a neighbour computes while it waits. At 224×224, k = 9, that is by count about
// 2,000 of 19,000 cycles an image: the way to memory, after that to the label and its filter.
// Results go to where the window was, one plane after another, and from there 16 bytes at a time to the image, where
// channels may be interleaved.
// Each value is one chain of fused multiply-adds from 0, kernel rows outer, columns inner, ascending, like the
// CPU's. `shared` rows hold their quads of floats as evens, then odds: the eight columns of neighbouring threads
// then lie 16 bytes apart, and no two of a quarter warp's 16-byte loads meet in a bank.
//
// For a uint8 element: 1 byte read, 1 written, k² multiply-adds. At k = 3 some 9 + 12 instructions an element
// against 2 bytes: instruction issue bounds it, with memory close behind. At k = 9 81 multiply-adds: the fp32
// rate does: a patch takes 2,592 of them and 156 loads from shared memory, and of the 311 instructions of its loop
// in sm_90 code 288 are multiply-adds. Its speed is not yet measured.
#pragma once

#include <algorithm>
#include <climits>
#include <cstring>

#include "classwise_conv_values.cuh"
#include "classwise_conv_window.cuh"
#include "launch.h"
#include "reduce.cuh"

namespace unlearn {

using Patch = float[patch_rows][patch_columns];

// The taps of one row of the window for patch rows LOW to HIGH - 1; it is kernel row `weights` for patch row 0.
template <int K, int LOW, int HIGH>
__device__ __forceinline__ void add_row(Patch& sum, const float* row, int half, const float* weights) {
  constexpr int stride = (K + 3) / 4 * 4, first = margin - K / 2;
  float x[16];
#pragma unroll
  for (int q = 0; q < 4; ++q)
    *reinterpret_cast<float4*>(x + 4 * q) = *reinterpret_cast<const float4*>(row + q % 2 * half + q / 2 * 4);
#pragma unroll
  for (int r = LOW; r < HIGH; ++r) {
    float w[stride];
#pragma unroll
    for (int q = 0; q < stride / 4; ++q)
      *reinterpret_cast<float4*>(w + 4 * q) = *reinterpret_cast<const float4*>(weights - r * stride + 4 * q);
#pragma unroll
    for (int j = 0; j < K; ++j)
#pragma unroll
      for (int c = 0; c < patch_columns; ++c) sum[r][c] = __fmaf_rn(w[j], x[first + c + j], sum[r][c]);
  }
}

// Equation (1), added to the patch whose window begins at `row`.
template <int K>
__device__ __forceinline__ void filter_patch(Patch& sum, const float* row, const Tiling& tiling,
                                             const float* weights) {
  constexpr int w = (K + 3) / 4 * 4;
  const int half = tiling.half(), stride = tiling.stride();
  const auto at = [&](int i) { return row + i * stride; };
  add_row<K, 0, 1>(sum, at(0), half, weights);
  add_row<K, 0, 2>(sum, at(1), half, weights + w);
  add_row<K, 0, 3>(sum, at(2), half, weights + 2 * w);
  if constexpr (K == 3) {
    add_row<K, 1, 4>(sum, at(3), half, weights + 3 * w);
  } else {
    // A loop for k = 9: unrolled, the code would outgrow the instruction cache.
#pragma unroll(K == 5 ? 2 : 1)
    for (int i = 3; i < K; ++i) add_row<K, 0, 4>(sum, at(i), half, weights + i * w);
    add_row<K, 1, 4>(sum, at(K), half, weights + K * w);
  }
  add_row<K, 2, 4>(sum, at(K + 1), half, weights + (K + 1) * w);
  add_row<K, 3, 4>(sum, at(K + 2), half, weights + (K + 2) * w);
}

// The value, which the compiler then takes for a new one: what is computed from it again needs no register between.
__device__ inline int anew(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// This thread's patch in tile t; `rows` and `columns` are those within the image, 0 columns for no patch.
struct Place {
  Tile tile;
  int channel, row, column, rows, columns;

  __device__ Place(const ClasswiseConvCuda& call, const Tiling& tiling, int t) : tile(call, tiling, anew(t)) {
    const int at = anew(threadIdx.x), strips = tiling.strips(), groups = tiling.row_groups();
    channel = at / strips / groups;
    row = at / strips % groups * patch_rows;
    column = at % strips * patch_columns;
    rows = channel < tile.channels ? tile.rows - row : 0;
    columns = rows > 0 ? tile.columns - column : 0;
  }
};

// The patch divided and stored where it lies in the image, element by element.
template <class T>
__device__ __forceinline__ void store_patch(const Patch& sum, const Divisor<float>& by, const Place& place,
                                            std::int64_t row_step, std::int64_t step, T* to) {
#pragma unroll
  for (int r = 0; r < patch_rows; ++r)
#pragma unroll
    for (int c = 0; c < patch_columns; ++c)
      if (r < place.rows && c < place.columns) to[r * row_step + c * step] = finished<T, false>(sum[r][c], by);
}

// The patch divided and staged whole, whatever of it lies within the image: `to` is in shared memory.
template <class T, bool FAST>
__device__ __forceinline__ void stage_patch(const Patch& sum, const Divisor<float>& by, int pitch, T* to) {
#pragma unroll
  for (int r = 0; r < patch_rows; ++r) {
    alignas(16) T v[patch_columns];
#pragma unroll
    for (int c = 0; c < patch_columns; ++c) v[c] = finished<T, FAST>(sum[r][c], by);
    using Vector = std::conditional_t<sizeof(v) == 8, uint2, uint4>;
#pragma unroll
    for (unsigned i = 0; i < sizeof(v) / sizeof(Vector); ++i) {
      Vector bits;
      memcpy(&bits, v + i * sizeof(Vector) / sizeof(T), sizeof(Vector));
      reinterpret_cast<Vector*>(to + r * pitch)[i] = bits;
    }
  }
}

// The staged planes to the image, 16 bytes at a time: CH = 1 to planes, CH = 3 interleaved.
template <class T, int CH>
__device__ void copy_out(const ClasswiseConvCuda& call, const Tiling& tiling, const Tile& tile, const T* staged,
                         T* image) {
  constexpr int pixels = 16 / sizeof(T);
  const int units = static_cast<int>(tile.columns) / pixels, planes = CH == 1 ? tile.channels : 1;
  const int plane_size = tiling.staged_plane(sizeof(T));
  for (int at = threadIdx.x; at < planes * tile.rows * units; at += blockDim.x) {
    const int unit = at % units, r = at / units % tile.rows, plane = at / units / tile.rows;
    const T* from = staged + plane * plane_size + tiling.staged_row(r, sizeof(T)) + unit * pixels;
    T* to = image + (tile.channel + plane) * call.channel_step + (tile.row + r) * call.row_step +
            (tile.column + unit * pixels) * CH;
    alignas(16) T planar[CH][pixels], joined[pixels * CH];
#pragma unroll
    for (int c = 0; c < CH; ++c) {
      const uint4 bits = *reinterpret_cast<const uint4*>(from + c * plane_size);
      memcpy(planar[c], &bits, 16);
    }
#pragma unroll
    for (int i = 0; i < pixels * CH; ++i) joined[i] = planar[i % CH][i / CH];
#pragma unroll
    for (int i = 0; i < CH; ++i) {
      uint4 bits;
      memcpy(&bits, joined + i * pixels, 16);
      __stcs(reinterpret_cast<uint4*>(to) + i, bits);
    }
  }
}

__device__ inline float patch_peak(const Patch& sum, int rows, int columns) {
  float peak = -INFINITY;
#pragma unroll
  for (int r = 0; r < patch_rows; ++r)
#pragma unroll
    for (int c = 0; c < patch_columns; ++c)
      if (r < rows && c < columns) peak = larger(peak, sum[r][c]);
  return peak;
}

// This part's share of an image that is left as it is.
template <class T>
__device__ void copy_image(const T* from, T* to, std::int64_t size, bool vector, int part, int parts) {
  const std::int64_t first = part * blockDim.x + threadIdx.x, step = parts * blockDim.x;
  if (!vector) {
    for (std::int64_t i = first; i < size; i += step) to[i] = from[i];
    return;
  }
  const std::int64_t vectors = size * static_cast<std::int64_t>(sizeof(T)) / 16;
  for (std::int64_t i = first; i < vectors; i += step)
    reinterpret_cast<uint4*>(to)[i] = __ldg(reinterpret_cast<const uint4*>(from) + i);
}

// Divides the patches by the maximum and writes the tile, by way of shared memory where that makes 16-byte stores.
template <class T>
__device__ __forceinline__ void finish_tile(const ClasswiseConvCuda& call, const Tiling& tiling, const Place& place,
                                            const Patch& sum, float peak, T* staged, T* out) {
  const Divisor<float> by(peak, call.rescale);
  const Tile& tile = place.tile;
  constexpr bool bytes = std::is_same_v<T, std::uint8_t>;
  if (!tiling.vector) {
    T* to = out + (tile.channel + place.channel) * call.channel_step + (tile.row + place.row) * call.row_step +
            (tile.column + place.column) * call.step;
    if (place.columns > 0) store_patch(sum, by, place, call.row_step, call.step, to);
    return;
  }
  T* to = staged + place.channel * tiling.staged_plane(sizeof(T)) + tiling.staged_row(place.row, sizeof(T)) +
          place.column;
  if (place.columns > 0) {
    if (bytes && by.fast) stage_patch<T, bytes>(sum, by, tiling.staged_pitch(), to);
    else stage_patch<T, false>(sum, by, tiling.staged_pitch(), to);
  }
  __syncthreads();
  if (call.step == 1) copy_out<T, 1>(call, tiling, tile, staged, out);
  else copy_out<T, 3>(call, tiling, tile, staged, out);
  __syncthreads();
}

// Kernels in here are those whose speed is promised: tests/test_cuda_build.py refuses register spills in them.
namespace hot {

template <class T, int K>
__global__ void __launch_bounds__(most_threads)
    classwise_conv_tiles(__grid_constant__ const ClasswiseConvCuda call, __grid_constant__ const Tiling tiling) {
  extern __shared__ float4 space[];
  __shared__ float scratch[32], own_peak;
  constexpr int pitch = Tiling::weight_stride(K);
  float* weights = reinterpret_cast<float*>(space);
  float* window = weights + K * pitch;
  T* ahead = reinterpret_cast<T*>(space) + tiling.shared_floats(K) * sizeof(float) / sizeof(T);
  const int part = blockIdx.x % tiling.parts;
  const std::int64_t at_once = gridDim.x / tiling.parts;
  const bool kept = tiling.tiles() <= tiling.parts && call.rescale;  // the sums, from the first pass to the second
  const auto fetch_image = [&](std::int64_t n) {
    if (!tiling.ahead || n >= call.count || part >= tiling.tiles() || label_of(call, n) < 0) return;
    fetch(call, Tile(call, tiling, part), static_cast<const T*>(call.images) + n * call.image_size(), K, ahead);
  };

  fetch_image(blockIdx.x / tiling.parts);
  for (std::int64_t n = blockIdx.x / tiling.parts; n < call.count; n += at_once) {
    const T* image = static_cast<const T*>(call.images) + n * call.image_size();
    T* out = static_cast<T*>(call.out) + n * call.image_size();
    const std::int64_t label = label_of(call, n);
    if (label < 0) {
      copy_image(image, out, call.image_size(), tiling.vector, part, tiling.parts);
      fetch_image(n + at_once);
      continue;
    }
    const float* filter = static_cast<const float*>(call.filters) + label * K * K;
    for (int i = threadIdx.x; i < K * K; i += blockDim.x) weights[i / K * pitch + i % K] = filter[i];

    Patch sum;
    float peak = -INFINITY;
    for (int pass = call.rescale ? 0 : 1; pass < 2; ++pass) {
      for (int t = part; t < tiling.tiles(); t += tiling.parts) {
        if (!kept || pass == 0) {
          const Place place(call, tiling, t);
          if (tiling.ahead) {
            __pipeline_wait_prior(0);
            __syncthreads();
            fill(call, tiling, place.tile, Pixels<T, true>(call, place.tile, K, ahead), K, window);
          } else {
            fill(call, tiling, place.tile, Pixels<T, false>(call, place.tile, image), K, window);
          }
          __syncthreads();
          if (tiling.ahead) fetch_image(n + at_once);
          const float* from = window + (place.channel * tiling.window_rows(K) + place.row) * tiling.stride();
#pragma unroll
          for (int i = 0; i < patch_rows * patch_columns; ++i) sum[i / patch_columns][i % patch_columns] = 0.f;
          if (place.columns > 0) filter_patch<K>(sum, from + place.column / 2, tiling, weights);
          __syncthreads();
        }
        const Place place(call, tiling, t);
        if (pass == 1) finish_tile(call, tiling, place, sum, peak, reinterpret_cast<T*>(window), out);
        else if (place.columns > 0) peak = larger(peak, patch_peak(sum, place.rows, place.columns));
      }
      if (pass == 0) {
        const auto largest = [](float a, float b) { return larger(a, b); };
        peak = reduce_cluster(reduce_block(peak, scratch, largest), tiling.parts, &own_peak, largest);
      }
    }
    __syncthreads();  // the next image's weights replace these
  }
  check_values(call);
}

}  // namespace hot

template <class T>
std::size_t shared_bytes(const Tiling& tiling, int k) {
  return tiling.shared_floats(k) * sizeof(float) + (tiling.ahead ? tiling.ahead_elements(k) * sizeof(T) : 0);
}

// The fewest blocks that hold an image in registers, or a tiling that goes over it twice.
template <class T, int K>
Tiling tile_image(const ClasswiseConvCuda& call, std::size_t most_shared, bool clusters) {
  constexpr int pixels = 16 / sizeof(T);
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  Tiling tiling{};
  tiling.vector = call.width % pixels == 0 && aligned(call.images) && aligned(call.out) &&
                  (call.step == 1 || (call.step == 3 && call.channels == 3));
  const auto fits = [&](const Tiling& t) {
    return t.patches() <= most_threads && shared_bytes<T>(t, K) <= most_shared;
  };
  const auto cut = [&](int channels, std::int64_t rows, std::int64_t columns, int parts) {
    tiling.channels = channels, tiling.rows = static_cast<int>(rows), tiling.columns = static_cast<int>(columns);
    tiling.parts = parts;
    const auto pieces = [](std::int64_t whole, std::int64_t of) { return static_cast<int>((whole + of - 1) / of); };
    tiling.channel_groups = pieces(call.channels, channels);
    tiling.down = pieces(call.height, rows), tiling.across = pieces(call.width, columns);
    return tiling;
  };
  const int most_parts = clusters ? 8 : 1;
  const bool small =
      call.channels <= most_threads && call.width <= 8 * most_threads && call.height <= 32 * most_threads;
  for (int parts = 1; small && parts <= most_parts; parts *= 2) {
    const std::int64_t rows = ((call.height + parts - 1) / parts + patch_rows - 1) / patch_rows * patch_rows;
    if (!fits(cut(static_cast<int>(call.channels), std::min(rows, call.height), call.width, parts))) continue;
    // Where registers or shared memory leave room for a second block, that one computes while the first waits.
    const bool alone = 2 * tiling.threads() > most_threads || 2 * shared_bytes<T>(tiling, K) > most_shared;
    tiling.ahead = alone && tiling.vector && call.rescale;
    if (shared_bytes<T>(tiling, K) > most_shared) tiling.ahead = false;
    return tiling;
  }
  const int together = call.step == 3 && call.channels == 3 ? 3 : 1;
  const std::int64_t columns = std::min<std::int64_t>(call.width, 256);
  int rows = 64;
  while (rows > patch_rows && !fits(cut(together, std::min<std::int64_t>(rows, call.height), columns, most_parts)))
    rows -= patch_rows;
  return cut(together, std::min<std::int64_t>(rows, call.height), columns, most_parts);
}

template <class T, int K>
void launch_tiles(const ClasswiseConvCuda& call) {
  const auto kernel = hot::classwise_conv_tiles<T, K>;
  const std::size_t most_shared = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - 1024;
  const bool clusters = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
  const Tiling tiling = tile_image<T, K>(call, most_shared, clusters);
  const std::size_t shared = shared_bytes<T>(tiling, K);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
             "classwise_conv: shared memory");
  const std::int64_t at_once = std::min<std::int64_t>(call.count, INT_MAX / tiling.parts);
  Launch where{static_cast<unsigned>(at_once), static_cast<unsigned>(tiling.threads()), call.stream, "classwise_conv",
               tiling.parts, shared};
  if (tiling.ahead) where.clusters = std::min(where.clusters, resident(kernel, where));
  launch(kernel, where, call, tiling);
}

template <int K>
void classwise_conv_tiles(const ClasswiseConvCuda& call) {
  switch (call.type) {
    case ElementType::byte: return launch_tiles<std::uint8_t, K>(call);
    case ElementType::half: return launch_tiles<__half, K>(call);
    case ElementType::bfloat16: return launch_tiles<__nv_bfloat16, K>(call);
    case ElementType::single: return launch_tiles<float, K>(call);
    case ElementType::double_: return;  // never tiled
  }
}

}  // namespace unlearn
