#pragma once

#include <cstdint>

namespace unlearn {

// Where cells begin, ascending.
struct Starts {
  const float* begins;
  std::int64_t count;
};

// The matrices that `spectral_weights` of data/spectra.py places on the coefficients of a cosine transform.
struct SpectralWeights {
  static constexpr std::int64_t rings = 4;
  const float* gains;     // [count, rows.count, columns.count], by cell
  const float* matrices;  // [count, 1 + rings, elements]: the identity, then the rings' own
  const float* radii;     // [rings] at which these begin
  float* out;             // [count, height, width, elements]
  std::int64_t count, height, width, elements;
  Starts rows, columns;   // of the cells
  float cosine, sine;     // of the angle by which these are turned
};

// Rows of coefficients shared out among threads; the bytes of the PyTorch reference.
void spectral_weights(const SpectralWeights& call);

}  // namespace unlearn
