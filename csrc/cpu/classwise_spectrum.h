#pragma once

#include <algorithm>
#include <cstdint>

#include "cosine_plan.h"
#include "element_type.h"

namespace unlearn {

// One call of the operator. An image is `planes` planes of `height` rows of `row` elements, in which neighbouring pixels
// of one channel lie `step` elements apart: contiguous images have C planes and step 1, channels-last ones a single
// plane and step C, so that neither needs a change of layout.
struct ClasswiseSpectrum {
  const void* images;          // `type` [count, planes, height, row]: bytes are 0 to 255 and stand for v/255
  void* out;                   // the result, like `images`
  const std::int64_t* labels;  // [count]: a class, or negative for an image that stays as it is
  const void* weights;         // S [classes, height, width, channels, channels]
  const void* curves;          // S [classes, channels, sines, 2]; S is double where `type` is, otherwise float
  const void* down;            // CosinePlan<S> of the height
  const void* across;          // CosinePlan<S> of the width
  ElementType type;            // byte, single or double_
  std::int64_t count, planes, height, row, step, channels, sines;

  // One image can be shared out among threads instead, in the three calls of its stages, which hand each other `work`.
  enum class Stage { all, forward, mix, inverse } stage = Stage::all;
  std::int64_t image = 0;
  void* work = nullptr;  // S [work_size]

  static constexpr std::int64_t block = 16;  // columns, and rows, of the pieces that stages are shared out in
  static std::int64_t blocks(std::int64_t size) { return (size + block - 1) / block; }

  std::int64_t width() const { return row / step; }
  std::int64_t image_size() const { return planes * height * row; }
  // An odd number of blocks, so that the rows of a column do not all fall into the same few lines of a cache.
  std::int64_t stride() const { return (blocks(row) | 1) * block; }
  std::int64_t plane_size() const { return blocks(height) * block * stride(); }
  std::int64_t work_size() const { return planes * plane_size(); }
  std::int64_t pieces(Stage of) const { return of == Stage::mix ? blocks(height) : planes * blocks(row); }
};

// Images [begin, end), or those pieces of one stage of one image, on one thread.
void classwise_spectrum_portable(const ClasswiseSpectrum& call, std::int64_t begin, std::int64_t end);
void classwise_spectrum_avx2(const ClasswiseSpectrum& call, std::int64_t begin, std::int64_t end);
void classwise_spectrum_avx512(const ClasswiseSpectrum& call, std::int64_t begin, std::int64_t end);

}  // namespace unlearn
