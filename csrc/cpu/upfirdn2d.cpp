// Up-sampling, FIR filtering and down-sampling of images on the CPU; see ../upfirdn2d.h for the formula.
//
// Everything is a weighted sum of a few rows of numbers that lie side by side. An output row is made of *lines*: a line
// is the weighted sum of the input rows under the vertical filter, one for a separable filter, else one per row of it.
// Outputs that meet the same taps, a *phase*, are then weighted sums of shifted parts of the line. Where pixels are
// single numbers, a line is first dealt out into `step` lanes so that these parts lie side by side, and the phases are
// woven together at the end. Where pixels are many channels, an output pixel is a sum of pixels of the line.
#include "../upfirdn2d.h"

#include "convert.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kLine = 8192;      // numbers of a line at a time
constexpr int64_t kBlock = 16;       // from so many channels on, a pixel is a row by itself
constexpr int64_t kAlone = 1 << 15;  // up to so many numbers one thread is faster than several

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t divisor(int64_t a, int64_t b) { return b == 0 ? a : divisor(b, a % b); }

// y = sum of w[t] * rows[t], added to y if kAdd.
template <int kTaps, bool kAdd, typename A, typename T, typename Y>
void sum_rows_of(const T* const* rows, const A* w, Y* __restrict y, int64_t n) {
  const T* row[kTaps];
  A weight[kTaps];
  for (int t = 0; t < kTaps; ++t) row[t] = rows[t], weight[t] = w[t];
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    A sum = weight[0] * static_cast<A>(load(row[0][j]));
    for (int t = 1; t < kTaps; ++t) sum += weight[t] * static_cast<A>(load(row[t][j]));
    if constexpr (kAdd) sum += y[j];
    store(sum, y + j);
  }
}

template <bool kAdd, typename A, typename T, typename Y>
void sum_rows_at_once(const T* const* rows, const A* w, int taps, Y* y, int64_t n) {
  switch (taps) {
    case 1:
      return sum_rows_of<1, kAdd>(rows, w, y, n);
    case 2:
      return sum_rows_of<2, kAdd>(rows, w, y, n);
    case 3:
      return sum_rows_of<3, kAdd>(rows, w, y, n);
    case 4:
      return sum_rows_of<4, kAdd>(rows, w, y, n);
    case 5:
      return sum_rows_of<5, kAdd>(rows, w, y, n);
    case 6:
      return sum_rows_of<6, kAdd>(rows, w, y, n);
  }
}

// The same for any number of taps; y is of the type that is accumulated in.
template <typename A, typename T>
void sum_rows(const T* const* rows, const A* w, int taps, A* y, int64_t n, bool add) {
  constexpr int kMost = 6;
  if (taps == 0 && !add) {
    for (int64_t j = 0; j < n; ++j) y[j] = 0;
  }
  for (int t = 0; t < taps; t += kMost) {
    const int count = taps - t < kMost ? taps - t : kMost;
    if (add || t > 0) {
      sum_rows_at_once<true>(rows + t, w + t, count, y, n);
    } else {
      sum_rows_at_once<false>(rows + t, w + t, count, y, n);
    }
  }
}

// The filter in the order in which it meets the input, the taps of a residue side by side; rows x columns, or both
// apart: then `columns` has the gain.
template <typename A>
struct Taps {
  A rows[kMaxTaps], columns[kMaxTaps * kMaxTaps];
};

// Where the taps of a residue begin when they are sorted by residue.
int64_t sorted(const FilterAxis& a, int64_t residue) {
  return residue * (a.taps / a.up) + smaller(residue, a.taps % a.up);
}
int64_t sorted_place(const FilterAxis& a, int64_t j) { return sorted(a, j % a.up) + j / a.up; }

template <typename A>
void sort_taps(const Upfirdn2d& a, Taps<A>* g) {
  for (int64_t i = 0; i < a.columns.taps; ++i) {
    const int64_t at = sorted_place(a.columns, i), from = stored_tap(a.columns, a.flip, i);
    if (a.fx != nullptr) {
      g->columns[at] = static_cast<A>(a.fx[from]) * static_cast<A>(a.gain);
      continue;
    }
    for (int64_t j = 0; j < a.rows.taps; ++j) {
      const A tap = a.fy[stored_tap(a.rows, a.flip, j) * a.columns.taps + from];
      g->columns[sorted_place(a.rows, j) * a.columns.taps + at] = tap * static_cast<A>(a.gain);
    }
  }
  for (int64_t j = 0; j < a.rows.taps; ++j) {
    g->rows[sorted_place(a.rows, j)] = a.fx != nullptr ? static_cast<A>(a.fy[stored_tap(a.rows, a.flip, j)]) : A(1);
  }
}

// Outputs [begin, end) of a row, of `channels` channels, and the inputs [from, from + inputs) that they read.
struct Tile {
  int64_t begin, end, channels, from, inputs;
};

// Numbers in buffers of a thread.
template <typename A>
struct Buffers {
  A line[kLine], lanes[kLine], sums[kLine];
};

// line = sum of w[t] * row t over the tile's inputs, zero outside the image.
template <typename A, typename T>
void sum_lines(const Upfirdn2d& a, const Tile& tile, const T* const* rows, const A* w, int count, A* line) {
  const int64_t begin = smaller(larger(-tile.from, 0), tile.inputs);
  const int64_t end = larger(smaller(a.columns.in - tile.from, tile.inputs), begin), size = tile.channels;
  for (int64_t j = 0; j < begin * size; ++j) line[j] = 0;
  for (int64_t j = end * size; j < tile.inputs * size; ++j) line[j] = 0;
  const bool whole = size == a.inner;
  const int64_t pieces = whole ? (begin < end) : end - begin, n = whole ? (end - begin) * size : size;
  for (int64_t i = 0; i < pieces; ++i) {
    const T* shifted[kMaxTaps];
    for (int t = 0; t < count; ++t) shifted[t] = rows[t] + (tile.from + begin + i) * a.inner;
    sum_rows(shifted, w, count, line + (begin + i) * size, n, false);
  }
}

// A line of pixels as `step` lanes: lane l has pixels l, l + step, ...
template <typename A>
const A* deal(const A* line, const Tile& tile, int64_t step, int64_t length, A* lanes) {
  if (step == 1) return line;
  const int64_t size = tile.channels;
  if (step == 2 && size == 1) {
#pragma omp simd
    for (int64_t j = 0; j < tile.inputs / 2; ++j) lanes[j] = line[2 * j], lanes[length + j] = line[2 * j + 1];
    if (tile.inputs % 2 != 0) lanes[tile.inputs / 2] = line[tile.inputs - 1];
    return lanes;
  }
  for (int64_t j = 0; j < tile.inputs; ++j) {
    for (int64_t c = 0; c < size; ++c) lanes[(j % step * length + j / step) * size + c] = line[j * size + c];
  }
  return lanes;
}

// Sums of a row of outputs, phase by phase: phase p has outputs p, p + phases, ... of the tile.
template <typename A>
void sum_phases(const Upfirdn2d& a, const Tile& tile, const A* taps, Buffers<A>* buffers, bool add) {
  const FilterAxis& axis = a.columns;
  const int64_t common = divisor(axis.up, axis.down), phases = axis.up / common, step = axis.down / common;
  const int64_t outputs = tile.end - tile.begin, length = (tile.inputs + step - 1) / step, size = tile.channels;
  const A* lanes = deal(buffers->line, tile, step, length, buffers->lanes);
  A* sums = buffers->sums;
  for (int64_t phase = 0; phase < smaller(phases, outputs); ++phase) {
    const Reach r = reach(axis, tile.begin + phase);
    const A* rows[kMaxTaps];
    for (int t = 0; t < r.count; ++t) {
      const int64_t at = r.input - tile.from + t;
      rows[t] = lanes + (at % step * length + at / step) * size;
    }
    const int64_t count = (outputs - phase + phases - 1) / phases;
    sum_rows(rows, taps + sorted(axis, r.tap), r.count, sums, count * size, add);
    sums += count * size;
  }
}

// The phases' sums as outputs, in their order.
template <typename A, typename T>
void weave(const Upfirdn2d& a, const Tile& tile, const A* sums, T* y) {
  const int64_t phases = a.columns.up / divisor(a.columns.up, a.columns.down), outputs = tile.end - tile.begin;
  const int64_t size = tile.channels;
  if (phases == 1) return narrow(sums, y, outputs * size);
  if (phases == 2 && size == 1) {
    const A* odd = sums + (outputs + 1) / 2;
#pragma omp simd
    for (int64_t j = 0; j < outputs / 2; ++j) store(sums[j], y + 2 * j), store(odd[j], y + 2 * j + 1);
    if (outputs % 2 != 0) store(sums[outputs / 2], y + outputs - 1);
    return;
  }
  for (int64_t phase = 0; phase < smaller(phases, outputs); ++phase) {
    for (int64_t j = phase; j < outputs; j += phases, sums += size) {
      for (int64_t c = 0; c < size; ++c) store(sums[c], y + j * size + c);
    }
  }
}

// Sums of a row of outputs, pixel by pixel.
template <typename A>
void sum_pixels(const Upfirdn2d& a, const Tile& tile, const A* taps, Buffers<A>* buffers, bool add) {
  for (int64_t o = tile.begin; o < tile.end; ++o) {
    const Reach r = reach(a.columns, o);
    const A* rows[kMaxTaps];
    for (int t = 0; t < r.count; ++t) rows[t] = buffers->line + (r.input - tile.from + t) * tile.channels;
    A* sums = buffers->sums + (o - tile.begin) * tile.channels;
    sum_rows(rows, taps + sorted(a.columns, r.tap), r.count, sums, tile.channels, add);
  }
}

template <typename A, typename T>
void run_tile(const Upfirdn2d& a, const Taps<A>& g, const Tile& tile, const Reach& rows, const T* x, T* y,
              Buffers<A>* buffers) {
  const bool separable = a.fx != nullptr, by_pixel = a.inner >= kBlock;
  // Rows outside the image are zero.
  const int first = static_cast<int>(smaller(larger(-rows.input, 0), rows.count));
  const int last = static_cast<int>(larger(smaller(a.rows.in - rows.input, rows.count), first));
  const T* row[kMaxTaps];
  for (int t = first; t < last; ++t) row[t] = x + (rows.input + t) * a.columns.in * a.inner;
  const int64_t tap = sorted(a.rows, rows.tap);
  const int at_once = separable ? last - first : 1;
  int t = first;
  do {
    const int count = t < last ? at_once : 0;
    sum_lines(a, tile, row + t, g.rows + tap + t, count, buffers->line);
    const A* taps = g.columns + (separable ? 0 : (count == 0 ? 0 : (tap + t) * a.columns.taps));
    if (by_pixel) {
      sum_pixels(a, tile, taps, buffers, t > first);
    } else {
      sum_phases(a, tile, taps, buffers, t > first);
    }
    t += at_once;
  } while (t < last);
  if (!by_pixel) return weave(a, tile, buffers->sums, y);
  if (tile.channels == a.inner) return narrow(buffers->sums, y, (tile.end - tile.begin) * a.inner);
  for (int64_t o = 0; o < tile.end - tile.begin; ++o) {
    narrow(buffers->sums + o * tile.channels, y + o * a.inner, tile.channels);
  }
}

// How a row of outputs is cut: tiles of so many outputs and channels.
void cut_row(const Upfirdn2d& a, int64_t* outputs, int64_t* channels) {
  const FilterAxis& axis = a.columns;
  *channels = a.inner;
  if (a.inner >= kBlock) {
    const int64_t wanted = smaller(8, axis.out), most = kLine / larger(span(axis, wanted), wanted);
    if (most < a.inner) *channels = smaller(a.inner, larger(most / 64 * 64, 64));
  }
  // A lane may be a pixel longer than the others.
  const int64_t pixels = kLine / *channels - 1, lanes = axis.down / divisor(axis.up, axis.down);
  const int64_t inputs = a.inner >= kBlock ? pixels : pixels - lanes;
  *outputs = larger(smaller(smaller(axis.out, pixels), ((inputs - 1) * axis.up - axis.taps) / axis.down), 1);
}

template <typename T>
void run(const Upfirdn2d& a, int threads) {
  using A = typename Accumulator<T>::type;
  Taps<A> g;
  sort_taps(a, &g);
  int64_t outputs, channels;
  cut_row(a, &outputs, &channels);
  const int64_t in = a.rows.in * a.columns.in * a.inner, out_row = a.columns.out * a.inner;
  const int64_t all = a.planes * a.rows.out;
#pragma omp parallel num_threads(threads) if (all * out_row > kAlone)
  {
    Buffers<A> buffers;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < all; ++i) {
      const int64_t plane = i / a.rows.out;
      const Reach rows = reach(a.rows, i - plane * a.rows.out);
      for (int64_t o = 0; o < a.columns.out; o += outputs) {
        const int64_t end = smaller(o + outputs, a.columns.out);
        const int64_t from = reach(a.columns, o).input;
        for (int64_t c = 0; c < a.inner; c += channels) {
          const Tile tile{o, end, smaller(channels, a.inner - c), from, span(a.columns, end - o)};
          const T* x = static_cast<const T*>(a.x) + plane * in + c;
          run_tile(a, g, tile, rows, x, static_cast<T*>(a.y) + i * out_row + o * a.inner + c, &buffers);
        }
      }
    }
  }
}

}  // namespace

void upfirdn2d(const Upfirdn2d& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
