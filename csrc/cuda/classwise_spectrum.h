#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "element_type.h"

namespace unlearn {

// A transform of one side in place, from ops/cosine_in_place.py: where its parts lie in the tables of a call.
struct SpectrumSide {
  static constexpr int most_levels = 5;
  struct Pass {
    int first, count;  // in `pairs` and `factors`
  };
  int levels;
  int leaves, kinds, out;  // in `places`: [2^levels, leaf], [2^levels] and [length]
  Pass before[most_levels], after[most_levels];
};

// One call of the operator on a GPU, for float32 and uint8 images.
struct ClasswiseSpectrumCuda {
  const void* images;          // `type` [count, channels, height, width], or [count, height, width, channels] if `last`
  const std::int64_t* labels;  // [count]: a class, or negative for an image that stays as it is
  const float* weights;        // [classes, height, width, channels, channels]
  const float* curves;         // [classes, channels, sines, 2]
  void* out;                   // like `images`
  float* work;                 // [at_once, elements of an image]; not for what fits a block's shared memory
  const int* places;           // tables of the transforms
  const unsigned* pairs;       // [.]: the second place in the upper half
  const float* factors;        // [., 4], 16-byte aligned
  ElementType type;
  bool last;
  std::int64_t count, classes, at_once;
  int channels, height, width, sines;
  int leaf_down, leaf_across;
  SpectrumSide down, across, back_across, back_down;
  cudaStream_t stream;
};

// What the current device's shared memory allows: nothing, an image in a block, which needs one launch and no work
// space, or columns and rows in blocks, which need three and `work`.
enum class SpectrumWay { none, image, parts };
SpectrumWay classwise_spectrum_way(const ClasswiseSpectrumCuda& call);

// Launches on call.stream and returns; errors of the launch are thrown. Not where there is no way.
void classwise_spectrum_forward(const ClasswiseSpectrumCuda& call);

}  // namespace unlearn
