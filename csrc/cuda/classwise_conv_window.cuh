// How an image is cut into tiles, and a tile's window of floats in shared memory, filled from stored pixels. For
// classwise_conv_tiles.cuh alone.
#pragma once

#include <cuda_pipeline.h>

#include "classwise_conv.h"
#include "pixels.cuh"

namespace unlearn {

constexpr int patch_rows = 4, patch_columns = 8, margin = 4, most_threads = 640;  // which leaves each 96 registers

// How an image is cut. Tile t lies at channel group t / (across·down), then row and column of tiles.
struct Tiling {
  int channels, rows, columns;          // of a full tile
  int channel_groups, down, across;     // tiles of an image
  int parts;                            // blocks of a cluster, which share out the tiles
  bool vector;                          // whole 16 bytes can be loaded and stored; otherwise element by element
  bool ahead;                           // the next image's pixels are brought while this one is computed

  __host__ __device__ int tiles() const { return channel_groups * down * across; }
  __host__ __device__ int strips() const { return (columns + patch_columns - 1) / patch_columns; }
  __host__ __device__ int row_groups() const { return (rows + patch_rows - 1) / patch_rows; }
  __host__ __device__ int patches() const { return channels * strips() * row_groups(); }
  __host__ __device__ int half() const { return (strips() + 1) * 4; }   // floats: the even quads of a row
  __host__ __device__ int stride() const { return 2 * half() + 4; }     // four rows on, banks are half-way round
  __host__ __device__ int window_rows(int k) const { return row_groups() * patch_rows + k - 1; }
  __host__ __device__ int threads() const { return (patches() + 31) / 32 * 32; }
  __host__ __device__ std::size_t shared_floats(int k) const {
    return static_cast<std::size_t>(channels) * window_rows(k) * stride() + k * weight_stride(k);
  }
  // Of the pixels that are brought ahead, of whole rows: planes or interleaved, as the image has them.
  __host__ __device__ std::size_t ahead_elements(int k) const {
    return static_cast<std::size_t>(channels) * (rows + k - 1) * columns;
  }
  // Where, in elements of `bytes`, a row of results is staged for the copy to the image, one plane after the other.
  // The skew brings the patches of a warp to different banks. It all fits where the window was.
  __device__ int staged_pitch() const { return strips() * patch_columns; }
  __device__ int staged_row(int row, int bytes) const {
    return row * staged_pitch() + row / patch_rows * (staged_pitch() * bytes % 128 / bytes);
  }
  __device__ int staged_plane(int bytes) const { return staged_row(row_groups() * patch_rows, bytes); }
  __host__ __device__ static constexpr int weight_stride(int k) { return (k + 3) / 4 * 4; }
};

// One tile's place: sizes are clipped to the image.
struct Tile {
  int channel, channels, rows, columns;
  std::int64_t row, column;

  __device__ Tile(const ClasswiseConvCuda& call, const Tiling& tiling, int t) {
    channel = t / (tiling.down * tiling.across) * tiling.channels;
    row = static_cast<std::int64_t>(t / tiling.across % tiling.down) * tiling.rows;
    column = static_cast<std::int64_t>(t % tiling.across) * tiling.columns;
    channels = min(static_cast<std::int64_t>(tiling.channels), call.channels - channel);
    rows = min(static_cast<std::int64_t>(tiling.rows), call.height - row);
    columns = min(static_cast<std::int64_t>(tiling.columns), call.width - column);
  }
};

// Where quad q of a row stands in shared memory, in floats.
__device__ inline int quad_at(const Tiling& tiling, int q) { return (q & 1) * tiling.half() + (q >> 1) * 4; }

// Where a tile's pixels are read: in the image, or, AHEAD, in shared memory, where a row stands for each of the window.
template <class T, bool AHEAD>
struct Pixels {
  const T* first;  // the tile's first row and column of its first channel; AHEAD: those of the window
  std::int64_t channel_step, row_step, step;

  __device__ Pixels(const ClasswiseConvCuda& call, const Tile& tile, const T* image)
      : first(image + tile.channel * call.channel_step + tile.column * call.step),
        channel_step(call.channel_step), row_step(call.row_step), step(call.step) {}

  __device__ Pixels(const ClasswiseConvCuda& call, const Tile& tile, int k, const T* ahead)
      : first(ahead), channel_step(call.step == 1 ? (tile.rows + k - 1) * tile.columns : 1),
        row_step(tile.columns * call.step), step(call.step) {}

  // Column x of row y of the image, which is row r of the window.
  __device__ const T* at(int channel, int r, std::int64_t y, std::int64_t x) const {
    return first + channel * channel_step + (AHEAD ? r : y) * row_step + x * step;
  }
};

// Whole 16 bytes of one row into shared memory: CH = 1 channel of a contiguous image, or CH = 3 interleaved.
template <class T, int CH, bool AHEAD>
__device__ void fill_body(const ClasswiseConvCuda& call, const Tiling& tiling, const Tile& tile,
                          const Pixels<T, AHEAD>& from, int k, float* shared) {
  constexpr int pixels = 16 / sizeof(T);
  const int units = tile.columns / pixels, planes = CH == 1 ? tile.channels : 1, rows = tile.rows + k - 1;
  for (int at = threadIdx.x; at < planes * rows * units; at += blockDim.x) {
    const int unit = at % units, r = at / units % rows, plane = at / units / rows;
    float* to = shared + (plane * tiling.window_rows(k) + r) * tiling.stride();
    const std::int64_t y = source_index(tile.row + r - k / 2, call.height, call.padding);
    alignas(16) T raw[pixels * CH] = {};
    if (y >= 0) {
      const uint4* whole = reinterpret_cast<const uint4*>(from.at(plane, r, y, unit * pixels));
#pragma unroll
      for (int i = 0; i < CH; ++i) reinterpret_cast<uint4*>(raw)[i] = AHEAD ? whole[i] : __ldg(whole + i);
    }
    float values[pixels * CH];
    to_floats(raw, values);
#pragma unroll
    for (int c = 0; c < CH; ++c)
#pragma unroll
      for (int q = 0; q < pixels / 4; ++q) {
        const float* v = values + 4 * q * CH + c;
        float* quad = to + c * tiling.window_rows(k) * tiling.stride() +
                      quad_at(tiling, margin / 4 + unit * (pixels / 4) + q);
        *reinterpret_cast<float4*>(quad) = make_float4(v[0], v[CH], v[2 * CH], v[3 * CH]);
      }
  }
}

// The quads of every row but the `body` ones after the left margin, element by element.
template <class T, bool AHEAD>
__device__ void fill_edges(const ClasswiseConvCuda& call, const Tiling& tiling, const Tile& tile,
                           const Pixels<T, AHEAD>& from, int k, int body, float* shared) {
  const int rows = tiling.window_rows(k), edges = 2 * tiling.strips() + 2 - body, radius = k / 2;
  for (int at = threadIdx.x; at < tile.channels * rows * edges; at += blockDim.x) {
    const int e = at % edges, r = at / edges % rows, c = at / edges / rows;
    const int q = e < margin / 4 ? e : e + body;
    const std::int64_t y =
        r < tile.rows + k - 1 ? source_index(tile.row + r - radius, call.height, call.padding) : -1;
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 4 * q + i - margin;
      const bool used = y >= 0 && column >= -radius && column < tile.columns + radius;
      const std::int64_t x = used ? source_index(tile.column + column, call.width, call.padding) : -1;
      v[i] = x < 0 ? 0.f : to_float(*from.at(c, r, y, x - tile.column));
    }
    *reinterpret_cast<float4*>(shared + (c * rows + r) * tiling.stride() + quad_at(tiling, q)) =
        make_float4(v[0], v[1], v[2], v[3]);
  }
}

template <class T, bool AHEAD>
__device__ void fill(const ClasswiseConvCuda& call, const Tiling& tiling, const Tile& tile,
                     const Pixels<T, AHEAD>& from, int k, float* shared) {
  if (tiling.vector && call.step == 1) fill_body<T, 1>(call, tiling, tile, from, k, shared);
  if (tiling.vector && call.step == 3) fill_body<T, 3>(call, tiling, tile, from, k, shared);
  fill_edges(call, tiling, tile, from, k, tiling.vector ? tile.columns / 4 : 0, shared);
}

// Starts to bring a tile of whole rows to `ahead`, in shared memory. Each thread must wait for its own part.
template <class T>
__device__ void fetch(const ClasswiseConvCuda& call, const Tile& tile, const T* image, int k, T* ahead) {
  constexpr int elements = 16 / sizeof(T);
  const int planes = call.step == 1 ? tile.channels : 1, rows = tile.rows + k - 1;
  const int row = tile.columns * static_cast<int>(call.step), units = row / elements;
  for (int at = threadIdx.x; at < planes * rows * units; at += blockDim.x) {
    const int unit = at % units, r = at / units % rows, plane = at / units / rows;
    const std::int64_t y = source_index(tile.row + r - k / 2, call.height, call.padding);
    if (y < 0) continue;
    const T* from = image + plane * call.channel_step + y * call.row_step + unit * elements;
    __pipeline_memcpy_async(ahead + (plane * rows + r) * row + unit * elements, from, 16);
  }
  __pipeline_commit();
}

}  // namespace unlearn
