#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "scratch.h"

// What the kernels of docs/maths.md (B1) to (B8) read and write. Rows of points are sorted by class, laid side by
// side in blocks of as many rows as a kernel's vectors hold, and blocks form panels, padded with rows of no mass.

namespace unlearn {

// The power of two that makes a bandwidth about 1, and so keeps squares and steps in range.
inline double power_of(double bandwidth) { return std::ldexp(1.0, -std::max(std::ilogb(bandwidth), -1022)); }

template <typename S>
struct PackedRows {
  std::int64_t count = 0, depth = 0, padded_depth = 0, panels = 0, padded = 0;
  std::vector<std::int64_t> source;  // [padded]: the row of the caller's that a packed row is, or -1 for padding
  std::vector<std::int64_t> own;     // [padded], of queries: the packed reference that is the same row, or -1
  std::vector<S> bias;               // of the exponent: -‖z‖²/2σ², or 0; hugely negative for padding
  std::vector<S> label;              // of references; -1 for padding
  std::vector<S> winner, weight_won, weight_lost;  // of queries: c_i and both values of a_ij, (B4)
  std::vector<double> mass;                        // of queries: m_ic, [padded rows, classes]
  std::vector<double> centre, radius, largest_square;  // of panels: [panels, depth], [panels], [panels] of ‖z‖²
  std::vector<double> sums;                        // S1 or Sᵀ1
  Scratch<S> gradient;                             // S r or Sᵀ z: [block][padded depth][row in block]

  // Points as factors of the two matrix products, in units of one number, or of two in bfloat16:
  // [block][depth][row in block] with pairs along depth, and [block][padded depth][row in block] with pairs of rows.
  const void* gram_factors = nullptr;
  const void* product_factors = nullptr;
  std::int64_t gram_block = 0, product_block = 0;  // units in a block
  const S* singles = nullptr;  // the points as numbers, [block][padded depth][row in block]; with `local` alone in bf16
  const S* plain = nullptr;    // with `local`: the caller's rows, scaled alone, laid out as singles are
  Scratch<S> points, plain_points;
  Scratch<std::uint32_t> gram_pairs, product_pairs;
};

template <typename S>
struct BayesCall {
  PackedRows<S>* queries;
  PackedRows<S>* references;  // the queries themselves where both are the same rows
  std::int64_t panel_blocks, classes;
  S scale;  // 1/σ²
  bool rbf, rounded;
  bool local;  // points are relative to their panel's centre, not to the references' mean
  double widest;  // with `local`, a pair of panels that extends over more is evaluated from differences of `plain`

  bool shared() const { return queries == references; }

  // ‖δ‖² of a pair of panels, docs/maths.md (B9).
  double offset_square(std::int64_t i, std::int64_t j) const {
    const double *a = queries->centre.data() + i * queries->depth, *b = references->centre.data() + j * queries->depth;
    double square = 0;
    for (std::int64_t d = 0; d < queries->depth; ++d) square += (a[d] - b[d]) * (a[d] - b[d]);
    return square;
  }

  bool wide(std::int64_t i, std::int64_t j) const {
    return local && queries->radius[i] + references->radius[j] + std::sqrt(offset_square(i, j)) > widest;
  }
};

// Block and factor sizes of an instruction set, and the two sweeps over one pair of panels.
template <typename S>
struct BayesKernel {
  using Sweep = void (*)(const BayesCall<S>& call, std::int64_t query_panel, std::int64_t reference_panel);
  int block;           // rows in a block
  int depth_multiple;  // padded_depth is a multiple of this
  int pairs;           // numbers in a unit
  Sweep statistics;    // adds to mass
  Sweep gradient;      // adds to gradient and sums
};

BayesKernel<float> bayes_error_avx512bf16();
BayesKernel<float> bayes_error_avx512();
BayesKernel<float> bayes_error_avx2();
BayesKernel<float> bayes_error_portable();
BayesKernel<double> bayes_error_avx512_double();
BayesKernel<double> bayes_error_avx2_double();
BayesKernel<double> bayes_error_portable_double();

}  // namespace unlearn
