// How images and filters are cut for upfirdn2d.cpp: phases of outputs, lanes of inputs, tiles.
#pragma once

#include "../upfirdn2d.h"
#include "level.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

constexpr int64_t kGoal = 8192;       // values of a buffer that stay near the processor
constexpr int64_t kMost = 17 * 1024;  // room in a buffer: for all that one output reads
constexpr int64_t kPixel = 16;        // from so many channels on, a pixel is a row
constexpr int64_t kChannels = 512;    // of a tile, at most
constexpr int64_t kLeastTiles = 64;   // of several planes each, so that every thread has something to do
constexpr int64_t kTransposed = 16;   // channels of a tile that are adjacent in x or in y alone: 64 bytes of float
constexpr int64_t kLeast = 8;         // outputs of a tile along an axis, before the other axis or channels are cut

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t divisor(int64_t a, int64_t b) { return b == 0 ? a : divisor(b, a % b); }

// Taps that meet the same outputs are adjacent: where those of a residue modulo `up` begin, and where tap j is.
static inline int64_t sorted(const FilterAxis& a, int64_t residue) {
  return residue * (a.taps / a.up) + smaller(residue, a.taps % a.up);
}
static inline int64_t sorted_place(const FilterAxis& a, int64_t j) { return sorted(a, j % a.up) + j / a.up; }

// The filters of rows and of columns, or one of both [taps of rows, taps of columns] in `columns`; with the gain.
template <typename A>
struct Taps {
  A rows[kMaxTaps], columns[kMaxTaps * kMaxTaps];
};

template <typename A>
static inline void sort_taps(const Upfirdn2d& a, Taps<A>* g) {
  const bool separable = a.fx != nullptr;
  const A gain = static_cast<A>(a.gain);
  for (int64_t j = 0; j < a.rows.taps; ++j) {
    const int64_t row = sorted_place(a.rows, j), from_row = stored_tap(a.rows, a.flip, j);
    if (separable) g->rows[row] = a.fy[from_row];
    for (int64_t i = 0; i < a.columns.taps; ++i) {
      const int64_t column = sorted_place(a.columns, i), from = stored_tap(a.columns, a.flip, i);
      if (separable) {
        g->columns[column] = a.fx[from] * gain;
      } else {
        g->columns[row * a.columns.taps + column] = a.fy[from_row * a.columns.taps + from] * gain;
      }
    }
  }
}

// Along an axis: outputs [begin, begin + count), the inputs [from, from + inputs) that they read, those of them [first,
// last) that are in the image, and how both are cut.
struct Cut {
  FilterAxis axis;
  int64_t begin, count, from, inputs, first, last;
  int64_t phases, step;   // step: inputs between neighbours of a phase
  int64_t lanes, length;  // length: inputs in a lane

  // Outputs begin + phase, begin + phase + phases, ...
  int64_t outputs(int64_t phase) const { return (count - phase + phases - 1) / phases; }
  int64_t lane(int64_t input) const { return input % lanes; }
  int64_t place(int64_t input) const { return input / lanes; }
};

static inline Cut cut_axis(const FilterAxis& axis, int64_t begin, int64_t count) {
  Cut c{axis, begin, count, reach(axis, begin).input, span(axis, count), 0, 0, 1, 1, 1, 0};
  c.first = smaller(larger(-c.from, 0), c.inputs);
  c.last = larger(smaller(axis.in - c.from, c.inputs), c.first);
  const int64_t common = divisor(axis.up, axis.down);
  c.phases = smaller(axis.up / common, count);
  c.step = axis.down / common;
  c.lanes = smaller(c.step, c.inputs);
  c.length = divide_up(c.inputs, c.lanes);
  return c;
}

// The inputs of a cut as if they were its outputs.
static inline Cut inputs_of(Cut c) {
  c.axis = {c.axis.in, c.axis.in, 1, 1, 1, 0};
  c.begin = c.from, c.count = c.inputs;
  c.phases = c.step = 1;
  return c;
}

// The size of a tile in outputs, channels and planes.
struct TileSize {
  int64_t rows, columns, channels, planes;
};

// The largest buffer that a tile needs; of pixels, that is a line of inputs or of outputs.
static inline int64_t room_of_pixels(const Upfirdn2d& a, const TileSize& size) {
  return larger(span(a.columns, size.columns), size.columns) * size.channels;
}
static inline int64_t room_of_tile(const Upfirdn2d& a, const TileSize& size) {
  const Cut rows = cut_axis(a.rows, 0, size.rows), columns = cut_axis(a.columns, 0, size.columns);
  const int64_t at_once = larger(larger(rows.inputs, rows.count) * columns.lanes, rows.count * columns.phases);
  return at_once * columns.length * size.channels;
}

// A tile has all the channels, so these are few, and there is room for what one pixel reads.
static inline bool by_pixel(const Upfirdn2d& a) {
  return a.inner >= kPixel || (a.inner > 1 && room_of_tile(a, {1, 1, a.inner, 1}) > kMost);
}
static inline int64_t room(const Upfirdn2d& a, const TileSize& size) {
  return by_pixel(a) ? room_of_pixels(a, size) : room_of_tile(a, size);
}

// Planes of a tile are channels of one sample; a filter that is no product of two takes them one by one.
static inline TileSize turned_tile_size(const Upfirdn2d& a) {
  TileSize size{a.rows.out, a.columns.out, 1, a.fx == nullptr ? 1 : smaller(a.after.channels, kTransposed)};
  while (room(a, size) * size.planes > kGoal && size.rows > kLeast) size.rows = divide_up(size.rows, 2);
  while (room(a, size) * size.planes > kGoal && size.columns > kLeast) size.columns = divide_up(size.columns, 2);
  while (room(a, size) * size.planes > kMost && size.planes > 1) size.planes = divide_up(size.planes, 2);
  while (room(a, size) > kMost && size.rows * size.columns > 1) {
    size.rows = divide_up(size.rows, 2);
    size.columns = divide_up(size.columns, 2);
  }
  return size;
}

static inline TileSize tile_size(const Upfirdn2d& a) {
  if (a.order != Order::kept) return turned_tile_size(a);
  // Of pixels nothing is read twice where tiles meet along the rows: small ones give every thread something to do.
  TileSize size{by_pixel(a) ? smaller(a.rows.out, kLeast) : a.rows.out, a.columns.out,
                divide_up(a.inner, divide_up(a.inner, kChannels)), 1};
  while (room(a, size) > kGoal && size.rows > kLeast) size.rows = divide_up(size.rows, 2);
  while (room(a, size) > kGoal && size.columns > kLeast) size.columns = divide_up(size.columns, 2);
  while (by_pixel(a) && room(a, size) > kMost && size.channels > 1) size.channels = divide_up(size.channels, 2);
  while (room(a, size) > kMost && size.rows * size.columns > 1) {
    size.rows = divide_up(size.rows, 2);
    size.columns = divide_up(size.columns, 2);
  }
  const bool whole = size.rows == a.rows.out && size.columns == a.columns.out && size.channels == a.inner;
  if (whole && !by_pixel(a) && a.fx != nullptr) {
    size.planes = larger(smaller(kGoal / room(a, size), a.planes / kLeastTiles), 1);
  }
  return size;
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
