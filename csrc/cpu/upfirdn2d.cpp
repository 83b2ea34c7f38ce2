// Up-sampling, FIR filtering and down-sampling of images on the CPU; see ../upfirdn2d.h for the formula.
//
// Everything is a weighted sum of rows of numbers that lie side by side. Outputs that meet the same taps are a *phase*:
// `up` of them, if up and down have no common divisor, and neighbours in a phase stand `down` inputs apart. So a tile
// of the image is dealt into `down` *lanes* along each axis, with zeros where it reaches over the border: then a phase
// of outputs is a sum of shifted pieces of lanes, for many image rows in one go. The phases are woven into the output.
// Pixels of many channels are rows by themselves, and need neither lanes nor weaving: `run_pixels`.
#include "upfirdn2d_plan.h"
#include "upfirdn2d_rows.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kAlone = 1 << 14;  // up to so many numbers one thread is faster than several

// Numbers of a thread. A lane of the image is [row lanes][rows][columns, channels], of the sums [rows][columns,
// channels]; the lanes of columns, and their phases, stand one behind the other.
template <typename A>
struct Buffers {
  A image[kMost], lines[kMost], sums[kMost];
};

struct Tile {
  Cut rows, columns;
  int64_t channels, pitch;  // pitch: of a row of a lane
};

// A row of the image, dealt into lanes of `lane` numbers.
template <typename A, typename T>
void deal_row(const Tile& tile, const T* x, A* image, int64_t lane) {
  const Cut& c = tile.columns;
  const int64_t size = tile.channels;
  for (int64_t i = 0; i < c.lanes; ++i) {
    A* to = image + i * lane;
    for (int64_t j = 0; j < divide_up(c.first, c.lanes) * size; ++j) to[j] = 0;
    for (int64_t j = c.last / c.lanes * size; j < tile.pitch; ++j) to[j] = 0;
  }
  if (c.lanes == 1) {
    A* to = image + c.first * size;
    const T* from = x + c.first * size;
    const A* wide = widen(from, to, (c.last - c.first) * size);
    if (wide == to) return;
    for (int64_t j = 0; j < (c.last - c.first) * size; ++j) to[j] = wide[j];
  } else if (c.lanes == 2 && size == 1) {
    int64_t j = c.first;
    if (j % 2 == 1 && j < c.last) image[lane + j / 2] = static_cast<A>(load(x[j])), ++j;
    A *even = image + j / 2, *odd = even + lane;
    const T* from = x + j;
    const int64_t pairs = (c.last - j) / 2;
#pragma omp simd
    for (int64_t k = 0; k < pairs; ++k) {
      even[k] = static_cast<A>(load(from[2 * k]));
      odd[k] = static_cast<A>(load(from[2 * k + 1]));
    }
    if (j + 2 * pairs < c.last) even[pairs] = static_cast<A>(load(from[2 * pairs]));
  } else {
    for (int64_t j = c.first; j < c.last; ++j) {
      A* to = image + c.lane(j) * lane + c.place(j) * size;
      for (int64_t k = 0; k < size; ++k) to[k] = static_cast<A>(load(x[j * size + k]));
    }
  }
}

template <typename A, typename T>
void deal(const Upfirdn2d& a, const Tile& tile, const T* plane, A* image) {
  const Cut& r = tile.rows;
  const int64_t lane = r.lanes * r.length * tile.pitch;
  A* to = image;
  for (int64_t begin = 0; begin < r.lanes; ++begin) {
    for (int64_t i = begin; i < r.lanes * r.length; i += r.lanes, to += tile.pitch) {
      if (i >= r.first && i < r.last) {
        deal_row(tile, plane + ((r.from + i) * a.columns.in + tile.columns.from) * a.inner, to, lane);
        continue;
      }
      for (int64_t k = 0; k < tile.columns.lanes; ++k) {
        for (int64_t j = 0; j < tile.pitch; ++j) to[k * lane + j] = 0;
      }
    }
  }
}

// The sums of one phase of rows, for every phase of columns.
template <typename A>
void sum_phase(const Upfirdn2d& a, const Taps<A>& g, const Tile& tile, int64_t phase, Buffers<A>* buffers) {
  const Cut &r = tile.rows, &c = tile.columns;
  const int64_t count = r.outputs(phase), lane = r.lanes * r.length * tile.pitch, line = count * tile.pitch;
  const Reach down = reach(r.axis, r.begin + phase);
  const A* rows[kMaxTaps];
  for (int64_t t = 0; t < down.count; ++t) {
    const int64_t input = down.input - r.from + t;
    rows[t] = buffers->image + (r.lane(input) * r.length + r.place(input)) * tile.pitch;
  }
  const int64_t row_taps = sorted(r.axis, down.tap);
  const bool separable = a.fx != nullptr;
  const Pieces whole{1, line, 0, 0};
  for (int64_t i = 0; separable && i < c.lanes; ++i) {
    sum_rows(rows, g.rows + row_taps, down.count, buffers->lines + i * line, whole, false);
    for (int64_t t = 0; t < down.count; ++t) rows[t] += lane;
  }
  for (int64_t p = 0; p < c.phases; ++p) {
    const Reach along = reach(c.axis, c.begin + p);
    const int64_t column_taps = sorted(c.axis, along.tap);
    for (int64_t s = 0; s < (separable ? 1 : larger(down.count, 1)); ++s) {
      const A* from[kMaxTaps];
      const int64_t taps = down.count == 0 ? 0 : along.count;
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t input = along.input - c.from + t, at = c.place(input) * tile.channels;
        from[t] = (separable ? buffers->lines + c.lane(input) * line : rows[s] + c.lane(input) * lane) + at;
      }
      const A* weights = g.columns + (separable ? 0 : (row_taps + s) * c.axis.taps) + column_taps;
      const Pieces pieces{1, line - tile.pitch + c.outputs(p) * tile.channels, 0, 0};
      sum_rows(from, weights, taps, buffers->sums + p * line, pieces, s > 0);
    }
  }
}

template <typename A, typename T>
void copy_row(const A* x, T* y, int64_t n) {
  if constexpr (sizeof(A) == sizeof(T)) {
    for (int64_t j = 0; j < n; ++j) y[j] = x[j];
  } else {
    narrow(x, y, n);
  }
}

// A row of every phase as a row of outputs.
template <typename A, typename T>
void weave_row(const Tile& tile, const A* sums, int64_t line, T* y) {
  const Cut& c = tile.columns;
  const int64_t size = tile.channels;
  if (c.phases == 1) return copy_row(sums, y, c.count * size);
  if (c.phases == 2 && size == 1) {
    const A* odd = sums + line;
#pragma omp simd
    for (int64_t j = 0; j < c.count / 2; ++j) store(sums[j], y + 2 * j), store(odd[j], y + 2 * j + 1);
    if (c.count % 2 != 0) store(sums[c.count / 2], y + c.count - 1);
    return;
  }
  for (int64_t p = 0; p < c.phases; ++p) {
    const A* from = sums + p * line;
    for (int64_t j = p; j < c.count; j += c.phases, from += size) {
      for (int64_t k = 0; k < size; ++k) store(from[k], y + j * size + k);
    }
  }
}

template <typename A, typename T>
void run_tile(const Upfirdn2d& a, const Taps<A>& g, const Tile& tile, const T* x, T* y, Buffers<A>* buffers) {
  deal(a, tile, x, buffers->image);
  const Cut &r = tile.rows, &c = tile.columns;
  for (int64_t phase = 0; phase < r.phases; ++phase) {
    sum_phase(a, g, tile, phase, buffers);
    const int64_t count = r.outputs(phase);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = r.begin + phase + i * r.phases;
      T* to = y + (row * a.columns.out + c.begin) * a.inner;
      weave_row(tile, buffers->sums + i * tile.pitch, count * tile.pitch, to);
    }
  }
}

// line = the tile's columns of a sum of image rows, with zeros where they reach over the border.
template <typename A, typename T>
void sum_line(const Upfirdn2d& a, const Tile& tile, const T* const* rows, const A* w, int64_t taps, A* line) {
  const Cut& c = tile.columns;
  const int64_t size = tile.channels, inside = c.last - c.first;
  for (int64_t j = 0; j < c.first * size; ++j) line[j] = 0;
  for (int64_t j = c.last * size; j < c.inputs * size; ++j) line[j] = 0;
  if (inside == 0) return;
  const bool whole = size == a.inner;
  const Pieces pieces{whole ? 1 : inside, whole ? inside * size : size, a.inner, size};
  sum_rows(rows, w, taps, line + c.first * size, pieces, false);
}

// Pixels of many channels, row by row.
template <typename A, typename T>
void run_pixels(const Upfirdn2d& a, const Taps<A>& g, const Tile& tile, const T* x, T* y, Buffers<A>* buffers) {
  const Cut& c = tile.columns;
  const int64_t size = tile.channels, step = a.columns.down / divisor(a.columns.up, a.columns.down);
  constexpr bool kDirect = sizeof(A) == sizeof(T);  // sums are outputs
  const bool separable = a.fx != nullptr;
  for (int64_t i = 0; i < tile.rows.count; ++i) {
    const Reach down = reach(a.rows, tile.rows.begin + i);
    // Rows outside the image are zero.
    const int64_t first = smaller(larger(-down.input, 0), down.count);
    const int64_t count = larger(smaller(a.rows.in - down.input, down.count) - first, 0);
    const T* rows[kMaxTaps];
    for (int64_t t = 0; t < count; ++t) {
      rows[t] = x + ((down.input + first + t) * a.columns.in + c.from + c.first) * a.inner;
    }
    const int64_t row_taps = sorted(a.rows, down.tap) + first;
    T* out = y + ((tile.rows.begin + i) * a.columns.out + c.begin) * a.inner;
    const int64_t pixel = kDirect ? a.inner : size;
    A* sums = landing(out, buffers->sums);
    for (int64_t s = 0; s < (separable ? 1 : larger(count, 1)); ++s) {
      const A one = 1;
      sum_line(a, tile, rows + s, separable ? g.rows + row_taps : &one, separable ? count : smaller(count, 1),
               buffers->lines);
      for (int64_t p = 0; p < c.phases; ++p) {
        const Reach along = reach(c.axis, c.begin + p);
        const A* from[kMaxTaps];
        for (int64_t t = 0; t < along.count; ++t) from[t] = buffers->lines + (along.input - c.from + t) * size;
        const A* taps =
            g.columns + (separable || count == 0 ? 0 : (row_taps + s) * c.axis.taps) + sorted(c.axis, along.tap);
        sum_rows(from, taps, along.count, sums + p * pixel, {c.outputs(p), size, step * size, c.phases * pixel}, s > 0);
      }
    }
    if (kDirect) continue;
    if (size == a.inner) {
      narrow(sums, out, c.count * size);
      continue;
    }
    for (int64_t j = 0; j < c.count; ++j) narrow(sums + j * size, out + j * a.inner, size);
  }
}

template <typename T>
void run(const Upfirdn2d& a, int threads) {
  using A = typename Accumulator<T>::type;
  Taps<A> g;
  sort_taps(a, &g);
  const TileSize size = tile_size(a);
  const int64_t in = a.rows.in * a.columns.in * a.inner, out = a.rows.out * a.columns.out * a.inner;
  const int64_t down = divide_up(a.rows.out, size.rows), along = divide_up(a.columns.out, size.columns);
  const int64_t deep = divide_up(a.inner, size.channels);
#pragma omp parallel num_threads(threads) if (a.planes * out > kAlone)
  {
    Buffers<A> buffers;
    Tile tile{};
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a.planes * down * along * deep; ++i) {
      const int64_t channel = i % deep * size.channels, column = i / deep % along * size.columns;
      const int64_t row = i / deep / along % down * size.rows, plane = i / deep / along / down;
      // Small images are cut all alike.
      if (tile.rows.count == 0 || tile.rows.begin != row) {
        tile.rows = cut_axis(a.rows, row, smaller(size.rows, a.rows.out - row));
      }
      if (tile.columns.count == 0 || tile.columns.begin != column) {
        tile.columns = cut_axis(a.columns, column, smaller(size.columns, a.columns.out - column));
      }
      tile.channels = smaller(size.channels, a.inner - channel);
      tile.pitch = tile.columns.length * tile.channels;
      const T* x = static_cast<const T*>(a.x) + plane * in + channel;
      T* y = static_cast<T*>(a.y) + plane * out + channel;
      if (by_pixel(a)) {
        run_pixels(a, g, tile, x, y, &buffers);
      } else {
        run_tile(a, g, tile, x, y, &buffers);
      }
    }
  }
}

}  // namespace

void upfirdn2d(const Upfirdn2d& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
