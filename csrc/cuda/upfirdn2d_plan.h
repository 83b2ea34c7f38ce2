// How FIR resampling is cut among the blocks of a launch; plain C++, tested without a GPU.
#pragma once

#include <cstdint>

#include "../upfirdn2d.h"

namespace fastgan::cuda {

constexpr int kResampleThreads = 256;
constexpr int64_t kResampleShared = 40 * 1024;  // bytes of a tile, below what a block has without asking

// A block makes a tile of rows x columns outputs of a plane, and of so many channels.
struct ResampleTiles {
  int rows, columns, channels;
  int in_rows, in_columns;    // the inputs that they read
  int64_t down, along, deep;  // tiles of a plane
  FASTGAN_ANYWHERE constexpr int64_t per_plane() const { return down * along * deep; }
  // Values of the inputs, and of the sums of them under the filter of rows.
  FASTGAN_ANYWHERE constexpr int image() const { return in_rows * in_columns * channels; }
  FASTGAN_ANYWHERE constexpr int lines() const { return rows * in_columns * channels; }
};

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Inputs are counted up to what no block has room for.
constexpr ResampleTiles with_size(const Upfirdn2d& a, int64_t rows, int64_t columns, int64_t channels) {
  return {static_cast<int>(rows),
          static_cast<int>(columns),
          static_cast<int>(channels),
          static_cast<int>(smaller(span(a.rows, rows), kResampleShared)),
          static_cast<int>(smaller(span(a.columns, columns), kResampleShared)),
          (a.rows.out + rows - 1) / rows,
          (a.columns.out + columns - 1) / columns,
          (a.inner + channels - 1) / channels};
}

// In shared memory; and places among a tile's inputs and inserted zeros are ints.
constexpr bool fits(const Upfirdn2d& a, const ResampleTiles& t, int bytes) {
  const int64_t numbers = (int64_t{t.in_rows} + t.rows) * t.in_columns * t.channels;
  const auto countable = [](const FilterAxis& axis, int64_t outputs) {
    return (outputs - 1) * axis.down + 2 * axis.up + axis.taps <= INT32_MAX;
  };
  return numbers * bytes <= kResampleShared && countable(a.rows, t.rows) && countable(a.columns, t.columns);
}

// `bytes` is the size of the type that is accumulated in.
constexpr ResampleTiles cut_resample(const Upfirdn2d& a, int bytes) {
  const bool by_pixel = a.inner > 1;
  int64_t rows = by_pixel ? 8 : 32, columns = by_pixel ? 8 : 64, channels = a.inner < 32 ? a.inner : 32;
  if (rows > a.rows.out) rows = a.rows.out;
  if (columns > a.columns.out) columns = a.columns.out;
  ResampleTiles t = with_size(a, rows, columns, channels);
  // Channels first: a tile of few pixels reads most of its inputs again for the next one.
  while (!fits(a, t, bytes) && t.rows * t.columns * t.channels > 1) {
    if (channels > 8) {
      channels = (channels + 1) / 2;
    } else if (rows > 4) {
      rows = (rows + 1) / 2;
    } else if (columns > 4) {
      columns = (columns + 1) / 2;
    } else if (channels > 1) {
      channels = (channels + 1) / 2;
    } else {
      rows = (rows + 1) / 2;
      columns = (columns + 1) / 2;
    }
    t = with_size(a, rows, columns, channels);
  }
  return t;
}

// A tile along an axis: outputs [begin, begin + count); `from` is the first input, and tap 0 of output o of the tile
// stands `start + o * down` after it.
struct ResamplePart {
  int64_t begin, from;
  int count, start;
};
FASTGAN_ANYWHERE constexpr ResamplePart resample_part(const FilterAxis& a, int64_t tile, int size) {
  const int64_t begin = tile * size, rest = a.out - begin, from = reach(a, begin).input;
  const int64_t start = begin * a.down - a.pad - from * a.up;
  return {begin, from, static_cast<int>(rest < size ? rest : size), static_cast<int>(start)};
}

}  // namespace fastgan::cuda
