// How a tensor with channels is cut among threads: into parts of samples, whatever the number of threads.
//
// Where the channels are innermost a part is a block of positions, taken as rows of `width` values: a few channels are
// repeated, so that a row fills the vector unit; many are cut into several columns. So are small maps of which every
// sample has the same coefficients: a sample is a row, in which a few values of each channel are adjacent.
#pragma once

#include "../scale_shift_act.h"
#include "convert.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

constexpr int64_t kRow = 512;        // values of a row, or converted at a time
constexpr int64_t kPart = 1 << 15;   // values of a part, roughly
constexpr int64_t kSmall = 1 << 15;  // up to so many values one thread is faster than several
constexpr int64_t kSmallMap = 64;    // up to so many positions a sample is a row
constexpr int64_t kLeastRows = 32;   // of these in a part: coefficients are laid out once for all

static inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

// Channels outermost: every channel of a sample is one part. Else the positions are cut.
static inline int64_t row_repeats(const ChannelLayout& s) {
  return s.channels == 0 || s.channels > kRow / 2 || s.inner > 1 ? 1 : lesser(kRow / s.channels, 32);
}
static inline int64_t part_positions(const ChannelLayout& s) {
  if (!s.last || s.channels == 0) return s.positions;
  const int64_t repeats = row_repeats(s), rows = kPart / (repeats * s.channels * s.inner);
  const int64_t least = s.inner > 1 ? kLeastRows : 1;
  return repeats * (rows < least ? least : rows);
}
static inline int64_t part_count(const ChannelLayout& s) {
  if (!s.last || s.positions == 0) return 1;
  const int64_t size = part_positions(s);
  return (s.positions + size - 1) / size;
}

// All samples as a single one with its channels innermost, where every sample has the same coefficients and channels
// are stored so or have few positions. No sample stays none.
template <typename... Numbers>
static inline ChannelLayout merged(const ChannelLayout& s, const Numbers&... numbers) {
  const bool same = (... && (numbers.at == nullptr || numbers.stride == 0));
  if (!same || s.count == 0) return s;
  if (s.last) return {1, s.channels, s.count * s.positions, true, s.dtype, s.inner};
  if (s.positions == 0 || s.positions > kSmallMap) return s;
  return {1, s.channels, s.count, true, s.dtype, s.positions};
}

// Rows of values of which the j-th of each belongs to the same channel. The last row may be shorter.
struct Rows {
  int64_t n, part;
  int64_t begin;            // where it starts in the tensor
  int64_t first, channels;  // the first channel, and how many there are
  int64_t width;            // values of a row
  int64_t stride;           // from row to row
  int64_t end;              // where the last row ends, in the tensor
  int64_t positions;        // of the part, in each of which a channel has
  int64_t inner;            // so many values
};

// Calls f(rows) for every part of every sample, and every column of it, in parallel.
template <typename F>
static inline void for_each_rows(const ChannelLayout& s, int threads, F f) {
  const int64_t repeats = row_repeats(s), parts = part_count(s), size = part_positions(s);
  const int64_t row = s.channels * s.inner, most = kRow / s.inner, columns = (s.channels + most - 1) / most;
#pragma omp parallel for schedule(static) num_threads(threads) if (s.count * s.positions * row > kSmall)
  for (int64_t i = 0; i < s.count * parts * columns; ++i) {
    const int64_t n = i / columns / parts, part = i / columns % parts, first = i % columns * most;
    const int64_t positions = lesser(size, s.positions - part * size), channels = lesser(most, s.channels - first);
    const int64_t begin = (n * s.positions + part * size) * row, end = begin + positions * row;
    f(Rows{n, part, begin + first * s.inner, first, channels, repeats * channels * s.inner, repeats * row, end,
           positions, s.inner});
  }
}

// Calls f(number of the row, where it starts, its length) for the rows in their order.
template <typename F>
static inline void for_each_row(const Rows& rows, F f) {
  for (int64_t at = rows.begin, i = 0; at < rows.end; at += rows.stride, ++i) {
    f(i, at, lesser(rows.width, rows.end - at));
  }
}

// Channels that are one after the other: as many whole ones as kRow values hold, of one sample or of several, or a
// single one of any length, which is then taken in pieces of kRow values.
struct Run {
  int64_t n, c, count;  // the first one, and how many
  int64_t begin, end;   // in the tensor
};

// Calls f(run) for all channels of all samples, in parallel, where the channels are outermost.
template <typename F>
static inline void for_each_run(const ChannelLayout& s, int threads, F f) {
  const int64_t all = s.count * s.channels, most = s.positions <= 1     ? kRow
                                                   : s.positions < kRow ? kRow / s.positions
                                                                        : 1;
#pragma omp parallel for schedule(static) num_threads(threads) if (all * s.positions > kSmall)
  for (int64_t i = 0; i < all; i += most) {
    const int64_t count = lesser(most, all - i);
    f(Run{i / s.channels, i % s.channels, count, i * s.positions, (i + count) * s.positions});
  }
}

// Calls f(which channel of the run, n, c, where it begins in the piece, its values there) for the channels of a piece.
template <typename F>
static inline void for_each_channel(const ChannelLayout& s, const Run& run, int64_t size, F f) {
  const int64_t numbers = lesser(s.positions, size);
  int64_t n = run.n, c = run.c;
  for (int64_t i = 0; i < run.count; ++i) {
    f(i, n, c, i * numbers, numbers);
    if (++c == s.channels) c = 0, ++n;
  }
}

// Repeats what a row's first values, one for every channel, are.
template <typename A>
static inline void repeat(A* row, const Rows& rows) {
  for (int64_t c = rows.channels - 1; c >= 0; --c) {  // what is still to be read comes before what is written
    const A number = row[c];
    for (int64_t j = 0; j < rows.inner; ++j) row[c * rows.inner + j] = number;
  }
  for (int64_t first = rows.channels * rows.inner; first < rows.width; first += rows.channels) {
#pragma omp simd
    for (int64_t j = 0; j < rows.channels; ++j) row[first + j] = row[j];
  }
}

// Values of every channel along a row; but scale and shift only where they are centered.
template <typename A, bool kCentered>
struct CoefficientRow {
  A scale[kRow], shift[kRow], center[kRow], linear[kRow], constant[kRow];

  CoefficientRow(const Rows& rows, const Affine& affine, PerChannel linears = {}, PerChannel constants = {}) {
    fill(scale, affine.scale, A(1), rows);
    fill(shift, affine.shift, A(0), rows);
    if (!kCentered) return;
    fill(center, affine.center, A(0), rows);
    fill(linear, linears, A(0), rows);
    fill(constant, constants, A(0), rows);
  }

 private:
  static void fill(A* row, const PerChannel& of, A otherwise, const Rows& rows) {
    if (of.at == nullptr) {
      for (int64_t j = 0; j < rows.width; ++j) row[j] = otherwise;
      return;
    }
    const A* from = static_cast<const A*>(of.at) + rows.n * of.stride + rows.first;
#pragma omp simd
    for (int64_t j = 0; j < rows.channels; ++j) row[j] = from[j];
    repeat(row, rows);
  }
};

constexpr int64_t kRowsAtOnce = 16;  // summed in the type that is computed in, before double

// Two sums for every channel in some rows.
template <typename A>
struct RowSums {
  A some[2][kRow];
  double all[2][kRow];

  explicit RowSums(int64_t width) {
    for (int k = 0; k < 2; ++k) {
      for (int64_t j = 0; j < width; ++j) some[k][j] = 0, all[k][j] = 0;
    }
  }
  void flush(int64_t width) {
    for (int k = 0; k < 2; ++k) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) all[k][j] += some[k][j], some[k][j] = 0;
    }
  }
  // Into [2, C] of the workspace.
  void store(double* to, const Rows& rows, int64_t channels) {
    flush(rows.width);
    for (int k = 0; k < 2; ++k) {
      for (int64_t c = 0; c < rows.channels; ++c) {
        double sum = 0;
        for (int64_t j = 0; j < rows.inner; ++j) sum += all[k][c * rows.inner + j];
        all[k][c] = sum;
      }
      for (int64_t first = rows.channels * rows.inner; first < rows.width; first += rows.channels) {
#pragma omp simd
        for (int64_t j = 0; j < rows.channels; ++j) all[k][j] += all[k][first + j];
      }
      for (int64_t j = 0; j < rows.channels; ++j) to[k * channels + rows.first + j] = all[k][j];
    }
  }
};

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
