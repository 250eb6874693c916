// Weights as data/spectra.py makes them, row by row: what the matrices of all classes share is worked out once for each.
// Every number is one chain of correctly rounded operations, in the order of the reference.

#include "spectral_weights.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "scratch.h"
#include "share_out.h"

namespace unlearn {
namespace {

constexpr float unit = 32;
constexpr std::int64_t elements_a_piece = 1 << 16;

float smooth(float steps) {
  const float s = std::min(std::max(steps, 0.0f), 1.0f);
  return s * s * (3 - 2 * s);
}

// Where each coefficient of a row lies among cells: the one it is in, the one that follows, and how far it is past.
struct Places {
  std::int32_t *here, *following;
  float* share;

  void take(std::int64_t i, std::int64_t cell, const Starts& starts, float position) {
    const std::int64_t next = std::min(cell + 1, starts.count - 1);
    here[i] = static_cast<std::int32_t>(cell);
    following[i] = static_cast<std::int32_t>(next);
    share[i] = smooth(position - (starts.begins[next] - 1));
  }
};

float position_of(std::int64_t i, std::int64_t size) { return static_cast<float>(i) * unit / static_cast<float>(size); }

// The last of the cells that begin at a position or before it, from a guess: positions mostly grow little by little.
std::int64_t moved(std::int64_t cell, const Starts& starts, float position) {
  while (cell + 1 < starts.count && starts.begins[cell + 1] <= position) ++cell;
  while (cell > 0 && starts.begins[cell] > position) --cell;
  return cell;
}

float between(float first, float second, float share) { return first + share * (second - first); }

// One thread's work on rows of coefficients.
class Rows {
 public:
  explicit Rows(const SpectralWeights& given) : call(given), turned(given.sine != 0) {
    thread_local Scratch<std::int32_t> kept_places;
    thread_local Scratch<float> kept;
    std::int32_t* places = kept_places.at_least(5 * call.width);
    float* numbers = kept.at_least(5 * call.width + call.columns.count);
    across = {places, places + call.width, numbers};
    down = {places + 2 * call.width, places + 3 * call.width, numbers + call.width};
    ring = places + 4 * call.width;
    ring_share = numbers + 2 * call.width;
    gains = numbers + 3 * call.width;
    positions = numbers + 4 * call.width;
    row_of_cells = numbers + 5 * call.width;
    for (std::int64_t x = 0; x < call.width; ++x) positions[x] = position_of(x, call.width);
    if (turned) return;
    std::int64_t cell = 0;
    for (std::int64_t x = 0; x < call.width; ++x)
      across.take(x, cell = moved(cell, call.columns, positions[x]), call.columns, positions[x]);
  }

  void write(std::int64_t y) {
    const float p = position_of(y, call.height);
    place_rings(p);
    if (turned) place_turned(p);
    const std::int64_t cells = call.rows.count * call.columns.count;
    for (std::int64_t k = 0; k < call.count; ++k) {
      if (turned)
        gain_turned(call.gains + k * cells);
      else
        gain_upright(call.gains + k * cells, p);
      const float* matrices = call.matrices + k * (1 + SpectralWeights::rings) * call.elements;
      float* to = call.out + (k * call.height + y) * call.width * call.elements;
      if (call.elements == 9)
        weigh<9>(matrices, to);
      else
        weigh<0>(matrices, to);
    }
  }

 private:
  void place_rings(float p) {
    std::int64_t last = 1;
    for (std::int64_t x = 0; x < call.width; ++x) {
      const float radius = std::sqrt(p * p + positions[x] * positions[x]);
      while (last < SpectralWeights::rings && call.radii[last] <= radius) ++last;
      ring[x] = static_cast<std::int32_t>(last);
      ring_share[x] = smooth(radius - call.radii[last - 1]);
    }
  }

  void place_turned(float p) {
    std::int64_t row = 0, column = 0;
    for (std::int64_t x = 0; x < call.width; ++x) {
      const float q = positions[x];
      const float below = call.cosine * p + call.sine * q, beside = call.cosine * q - call.sine * p;
      down.take(x, row = moved(row, call.rows, below), call.rows, below);
      across.take(x, column = moved(column, call.columns, beside), call.columns, beside);
    }
  }

  void gain_upright(const float* cells, float p) {
    const std::int64_t row = moved(0, call.rows, p), next = std::min(row + 1, call.rows.count - 1);
    const float share = smooth(p - (call.rows.begins[next] - 1));
    for (std::int64_t j = 0; j < call.columns.count; ++j)
      row_of_cells[j] = between(cells[row * call.columns.count + j], cells[next * call.columns.count + j], share);
    for (std::int64_t x = 0; x < call.width; ++x)
      gains[x] = between(row_of_cells[across.here[x]], row_of_cells[across.following[x]], across.share[x]);
  }

  void gain_turned(const float* cells) {
    for (std::int64_t x = 0; x < call.width; ++x) {
      const float* above = cells + down.here[x] * call.columns.count;
      const float* below = cells + down.following[x] * call.columns.count;
      const std::int32_t left = across.here[x], right = across.following[x];
      const float upper = between(above[left], above[right], across.share[x]);
      gains[x] = between(upper, between(below[left], below[right], across.share[x]), down.share[x]);
    }
  }

  template <int fixed>
  void weigh(const float* matrices, float* __restrict to) const {
    const std::int64_t elements = fixed ? fixed : call.elements;
    for (std::int64_t x = 0; x < call.width; ++x, to += elements) {
      const float gain = gains[x], share = ring_share[x];
      const float *outer = matrices + ring[x] * elements, *inner = outer - elements;
      if (share < 1)
        for (std::int64_t i = 0; i < elements; ++i) to[i] = (share * outer[i] + (1 - share) * inner[i]) * gain;
      else
        for (std::int64_t i = 0; i < elements; ++i) to[i] = outer[i] * gain;
    }
  }

  const SpectralWeights& call;
  const bool turned;
  Places across, down;
  std::int32_t* ring;  // 1 for the lowest
  float *ring_share, *gains, *positions, *row_of_cells;
};

}  // namespace

void spectral_weights(const SpectralWeights& call) {
  const std::int64_t work = call.count * call.width * call.elements;
  share_out_work(call.height, work, elements_a_piece, [&](std::int64_t begin, std::int64_t end) {
    Rows rows(call);
    for (std::int64_t y = begin; y < end; ++y) rows.write(y);
  });
}

}  // namespace unlearn
