// Up-sampling, FIR filtering and down-sampling of images on the CPU; see ../upfirdn2d.h for the formula.
//
// Everything is a weighted sum of rows of adjacent values. Outputs that meet the same taps are a *phase*:
// `up` of them, if up and down have no common divisor, and neighbours in a phase stand `down` inputs apart. A tile of
// the image becomes *lines* first, one per row of outputs: sums of image rows under the filter of rows, with zeros
// where they reach over the border. These are dealt into `down` *lanes*: then a phase of outputs is a sum of shifted
// pieces of lanes, for all the lines in one go. The phases are woven into the output; a single one is summed where it
// belongs. A filter that is no product of two has the image rows themselves as lines. Pixels of many channels are rows
// by themselves, and need neither lanes nor weaving: `run_pixels`.
#include "math.h"
#include "transpose.h"
#include "upfirdn2d_plan.h"
#include "upfirdn2d_rows.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kAlone = 1 << 14;  // up to so many values one thread is faster than several

// Values of a thread: image rows in the type that is accumulated in, unless they are; [rows][columns, channels] of
// lines, a row of which is as long as its lanes; the same as [lanes][rows][columns, channels]; sums of these by phase.
template <typename A>
struct Buffers {
  A image[kMost], lines[kMost], lanes[kMost], sums[kMost];
  Ahead ahead;
};

// The epilogue, in place: pixels of `size` channels, the first of which is `channel`.
template <typename A>
struct Finish {
  const Epilogue& after;
  BiasActNumbers<A> by;

  void operator()(A* y, int64_t pixels, int64_t size, int64_t channel) const {
    const A* b = static_cast<const A*>(after.b);
    const BiasActNumbers<A> numbers = by;
    dispatch_piecewise_linear(after.act, [&](auto act) {
      if (size == 1) {
        const A shift = b == nullptr ? A(0) : b[channel];
#pragma omp simd
        for (int64_t j = 0; j < pixels; ++j) {
          y[j] = bias_act_number<act(), BiasActPart::value, Math>(y[j] + shift, A(0), A(0), numbers);
        }
        return;
      }
      for (int64_t j = 0; j < pixels; ++j, y += size) {
#pragma omp simd
        for (int64_t k = 0; k < size; ++k) {
          const A z = b == nullptr ? y[k] : y[k] + b[channel + k];
          y[k] = bias_act_number<act(), BiasActPart::value, Math>(z, A(0), A(0), numbers);
        }
      }
    });
  }
};

struct Tile {
  Cut rows, columns;
  int64_t planes, channels, pitch;  // pitch: of a row of a lane
  int64_t plane, channel;           // the first ones
  bool cleared;                     // whether the lines have their zeros, from a tile that was cut alike
};

// The part of a tile's planes that is inside the image.
template <typename T>
struct Inside {
  const T* x;
  int64_t width, pitch, plane;  // pitch: of its rows; plane: from one to the next
};

// A line for every output row of a tile.
template <typename A, typename T>
void sum_down(const Cut& r, const A* weights, const Inside<T>& in, int64_t planes, A* lines, int64_t pitch,
              Ahead* ahead) {
  for (int64_t phase = 0; phase < r.phases; ++phase) {
    const Reach down = reach(r.axis, r.begin + phase);
    const A* w = weights + sorted(r.axis, down.tap);
    const int64_t outputs = r.outputs(phase);
    for (int64_t i = 0, together = 1; i < outputs; i += together) {
      const int64_t input = down.input - r.from + i * r.step;
      // Rows outside the image are zero. The same line of several planes is one sum, else lines that meet no such rows.
      const int64_t first = smaller(larger(r.first - input, 0), down.count);
      const int64_t last = larger(smaller(r.last - input, down.count), first);
      const bool alone = planes > 1 || last - first < down.count;
      together = alone ? 1 : larger(smaller((r.last - down.count - input) / r.step + 1, outputs - i), 1);
      const T* rows[kMaxTaps];
      for (int64_t t = first; t < last; ++t) rows[t - first] = in.x + (input + t - r.first) * in.pitch;
      const Pieces pieces = planes > 1 ? Pieces{planes, in.width, in.plane, r.count * pitch, ahead}
                                       : Pieces{together, in.width, r.step * in.pitch, r.phases * pitch, ahead};
      sum_rows(rows, w + first, last - first, lines + (phase + i * r.phases) * pitch, pieces, false);
    }
  }
}

// Lines of so many pixels in all, dealt into lanes.
template <typename A>
void deal(const A* lines, int64_t pixels, int64_t size, int64_t count, A* lanes) {
  const int64_t places = pixels / count, lane = places * size;
  if (count == 2 && size == 1) {
    A* odd = lanes + lane;
#pragma omp simd
    for (int64_t j = 0; j < places; ++j) lanes[j] = lines[2 * j], odd[j] = lines[2 * j + 1];
    return;
  }
  for (int64_t j = 0; j < places; ++j) {
    for (int64_t i = 0; i < count; ++i, lines += size) {
      for (int64_t k = 0; k < size; ++k) lanes[i * lane + j * size + k] = lines[k];
    }
  }
}

// The lanes of a tile's lines, of which there is one for every output of r.
template <typename A, typename T>
const A* make_lanes(const Cut& r, const A* weights, const Tile& tile, const Inside<T>& in, Buffers<A>* buffers) {
  const Cut& c = tile.columns;
  const int64_t size = tile.channels, count = tile.planes * r.count, pitch = tile.pitch * c.lanes;
  for (int64_t i = 0; !tile.cleared && i < count; ++i) {
    A* line = buffers->lines + i * pitch;
    for (int64_t j = 0; j < c.first * size; ++j) line[j] = 0;
    for (int64_t j = c.last * size; j < pitch; ++j) line[j] = 0;
  }
  sum_down(r, weights, in, tile.planes, buffers->lines + c.first * size, pitch, &buffers->ahead);
  if (c.lanes == 1) return buffers->lines;
  deal(buffers->lines, count * c.length * c.lanes, size, c.lanes, buffers->lanes);
  return buffers->lanes;
}

// The outputs of a phase of columns, for every row of outputs. Those of a separable filter may have their rows as far
// apart as the lanes have them: then they are one sum, which writes what is between the rows too.
template <typename A>
void sum_along(const Upfirdn2d& a, const Taps<A>& g, const Tile& tile, int64_t phase, const A* lanes, A* to,
               int64_t pitch, bool in_one_go, Ahead* ahead) {
  const Cut &r = tile.rows, &c = tile.columns;
  const bool separable = a.fx != nullptr;
  const int64_t lines = tile.planes * (separable ? r.count : r.inputs), lane = lines * tile.pitch;
  const int64_t n = c.outputs(phase) * tile.channels;
  const Reach along = reach(c.axis, c.begin + phase);
  const A *weights = g.columns + sorted(c.axis, along.tap), *from[kMaxTaps];
  for (int64_t t = 0; t < along.count; ++t) {
    const int64_t input = along.input - c.from + t;
    from[t] = lanes + c.lane(input) * lane + c.place(input) * tile.channels;
  }
  if (separable) {
    const Pieces one{1, (lines - 1) * pitch + n, 0, 0}, rows{lines, n, tile.pitch, pitch, ahead};
    return sum_rows(from, weights, along.count, to, in_one_go ? one : rows, false);
  }
  for (int64_t p = 0; p < r.phases; ++p) {
    const Reach down = reach(r.axis, r.begin + p);
    const Pieces rows{r.outputs(p), n, r.step * tile.pitch, r.phases * pitch, ahead};
    for (int64_t s = 0; s < larger(down.count, 1); ++s) {
      const A* taps[kMaxTaps];
      const int64_t count = down.count == 0 ? 0 : along.count;
      for (int64_t t = 0; t < count; ++t) taps[t] = from[t] + (down.input - r.from + s) * tile.pitch;
      const A* w = weights + (sorted(r.axis, down.tap) + s) * c.axis.taps;
      sum_rows(taps, w, count, to + p * pitch, rows, s > 0);
    }
  }
}

// Two rows interleaved.
template <typename A, typename T>
void weave_two(const A* even, const A* odd, int64_t n, T* y) {
  constexpr int64_t kChunk = 128;
  for (int64_t i = 0; i < n; i += kChunk) {
    const int64_t size = smaller(n - i, kChunk);
    A woven[2 * kChunk], *to = landing(y + 2 * i, woven);
#pragma omp simd
    for (int64_t j = 0; j < size; ++j) to[2 * j] = even[i + j], to[2 * j + 1] = odd[i + j];
    narrow(to, y + 2 * i, 2 * size);
  }
}

// Rows of every phase as rows of outputs, so many values apart.
template <typename A, typename T>
void weave_rows(const Upfirdn2d& a, const Tile& tile, const A* sums, int64_t line, T* y, int64_t out_row) {
  const Cut& c = tile.columns;
  const int64_t size = tile.channels, even = (c.count + 1) / 2, odd = c.count / 2;
  const auto for_rows = [&](auto weave) {
    for (int64_t plane = 0; plane < tile.planes; ++plane, y += (a.rows.out - tile.rows.count) * out_row) {
      for (int64_t i = 0; i < tile.rows.count; ++i, sums += tile.pitch, y += out_row) weave(sums, y);
    }
  };
  if (c.phases == 1) return for_rows([&](const A* from, T* to) { narrow(from, to, c.count * size); });
  if (c.phases == 2 && size == 1) {
    return for_rows([&](const A* from, T* to) {
      weave_two(from, from + line, odd, to);
      if (even > odd) store(from[odd], to + 2 * odd);
    });
  }
  for_rows([&](const A* from, T* to) {
    for (int64_t p = 0; p < c.phases; ++p) {
      const A* numbers = from + p * line;
      for (int64_t j = p; j < c.count; j += c.phases, numbers += size) {
        for (int64_t k = 0; k < size; ++k) store(numbers[k], to + j * size + k);
      }
    }
  });
}

// A row of every phase and plane as a row of pixels, of which a tile has so many channels; the first pixel is at y.
template <typename A, typename T>
void weave_pixels(const Upfirdn2d& a, const Tile& tile, const A* sums, int64_t line, T* y) {
  const Cut& c = tile.columns;
  const int64_t plane = tile.rows.count * tile.pitch;
  for (int64_t p = 0; p < c.phases; ++p, sums += line) {
    const int64_t pixel = a.after.channels;
    transpose(sums, plane, tile.planes, c.outputs(p), y + p * pixel, c.phases * pixel);
  }
}

// The first channel of a tile's pixels, in the tile's plane of this number.
int64_t first_channel(const Upfirdn2d& a, const Tile& tile, int64_t plane) {
  return a.inner == 1 ? (tile.plane + plane) % a.after.channels : tile.channel;
}

// What is inside the image of a tile's planes, in the type that is accumulated in.
template <typename A, typename T>
Inside<A> copy_inside(const Upfirdn2d& a, const Tile& tile, const Inside<T>& in, A* image) {
  const int64_t rows = tile.rows.last - tile.rows.first, plane = rows * in.width;
  if (a.order == Order::to_contiguous) {  // pixels, in.width of them and in.pitch values in a row
    for (int64_t i = 0; i < rows; ++i) {
      transpose(in.x + i * in.pitch, a.after.channels, in.width, tile.planes, image + i * in.width, plane);
    }
    return {image, in.width, in.width, plane};
  }
  for (int64_t p = 0; p < tile.planes; ++p) {
    for (int64_t i = 0; i < rows; ++i) {
      widen(in.x + p * in.plane + i * in.pitch, image + p * plane + i * in.width, in.width);
    }
  }
  return {image, in.width, in.width, plane};
}

// What the next tile will read: as much as this one, after it, if what a tile reads is adjacent.
template <typename T>
Ahead next_tile(const Upfirdn2d& a, const Tile& tile, const Inside<T>& in) {
  const int64_t rows = tile.rows.last - tile.rows.first;
  if (in.width < in.pitch || (tile.planes > 1 && rows < a.rows.in)) return {};
  constexpr uintptr_t kLeast = 128;  // bytes that are worth a look whether there is more to fetch
  const uintptr_t begin = reinterpret_cast<uintptr_t>(in.x), bytes = tile.planes * rows * in.pitch * sizeof(T);
  // A row of outputs is summed twice: over rows, and along them.
  const uintptr_t step = divide_up(bytes, 2 * tile.planes * tile.rows.count * kLeast) * kLeast;
  return {begin + bytes, begin + 2 * bytes, step};
}

template <typename A, typename T>
void run_tile(const Upfirdn2d& a, const Taps<A>& g, const Finish<A>& finish, const Tile& tile, const T* x, T* y,
              Buffers<A>* buffers) {
  const Cut &r = tile.rows, &c = tile.columns;
  const A one = 1, *weights = a.fx == nullptr ? &one : g.rows;
  const Cut lines = a.fx == nullptr ? inputs_of(r) : r;
  const int64_t pixel = a.order == Order::to_contiguous ? a.after.channels : a.inner, row = a.columns.in * pixel;
  const int64_t out_pixel = a.order == Order::to_channels_last ? a.after.channels : a.inner;
  const int64_t out_row = a.columns.out * out_pixel;
  x += (r.from + r.first) * row + (c.from + c.first) * pixel;
  y += r.begin * out_row + c.begin * out_pixel;
  const Inside<T> in{x, (c.last - c.first) * tile.channels, row, a.rows.in * row};
  buffers->ahead = next_tile(a, tile, in);
  const A* lanes;
  bool copied = true;
  if constexpr (sizeof(A) == sizeof(T)) {
    copied = a.order == Order::to_contiguous;
    if (!copied) lanes = make_lanes(lines, weights, tile, in, buffers);
    if (!copied && c.phases == 1 && a.order == Order::kept) {
      sum_along(a, g, tile, 0, lanes, y, out_row, false, &buffers->ahead);
      // Rows of a tile as wide as the image are adjacent.
      const bool wide = c.count == a.columns.out;
      for (int64_t i = 0, n = wide ? r.count : 1; a.after.there && i < tile.planes * r.count; i += n) {
        finish(y + i * out_row, n * c.count, tile.channels, first_channel(a, tile, i / r.count));
      }
      return;
    }
  }
  if (copied) lanes = make_lanes(lines, weights, tile, copy_inside(a, tile, in, buffers->image), buffers);
  const int64_t rows = tile.planes * r.count, phase = rows * tile.pitch;
  for (int64_t p = 0; p < c.phases; ++p) {
    sum_along(a, g, tile, p, lanes, buffers->sums + p * phase, tile.pitch, true, &buffers->ahead);
  }
  for (int64_t i = 0; a.after.there && i < c.phases * tile.planes; ++i) {
    const int64_t n = r.count * tile.pitch, channel = first_channel(a, tile, i % tile.planes);
    finish(buffers->sums + i * n, n / tile.channels, tile.channels, channel);
  }
  if (a.order == Order::to_channels_last) {
    for (int64_t i = 0; i < r.count; ++i) weave_pixels(a, tile, buffers->sums + i * tile.pitch, phase, y + i * out_row);
    return;
  }
  weave_rows(a, tile, buffers->sums, phase, y, out_row);
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
void run_pixels(const Upfirdn2d& a, const Taps<A>& g, const Finish<A>& finish, const Tile& tile, const T* x, T* y,
                Buffers<A>* buffers) {
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
    const bool side_by_side = pixel == size;
    for (int64_t j = 0, n = side_by_side ? c.count : 1; a.after.there && j < c.count; j += n) {
      finish(sums + j * pixel, n, size, tile.channel);
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
  T clamp;
  store(static_cast<A>(a.after.clamp), &clamp);
  const Finish<A> finish{a.after, bias_act_numbers<A>(a.after, load(clamp))};
  const TileSize size = tile_size(a);
  const int64_t in = a.rows.in * a.columns.in * a.inner, out = a.rows.out * a.columns.out * a.inner;
  const int64_t down = divide_up(a.rows.out, size.rows), along = divide_up(a.columns.out, size.columns);
  const int64_t deep = divide_up(a.inner, size.channels);
  // Planes of a tile whose layout is changed are of one sample.
  const int64_t together = a.order == Order::kept ? a.planes : a.after.channels;
  const int64_t groups = divide_up(together, size.planes);
#pragma omp parallel num_threads(threads) if (a.planes * out > kAlone)
  {
    Buffers<A> buffers;
    Tile tile{};
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a.planes / together * groups * down * along * deep; ++i) {
      const int64_t channel = i % deep * size.channels, column = i / deep % along * size.columns;
      const int64_t row = i / deep / along % down * size.rows;
      const int64_t group = i / deep / along / down, first = group % groups * size.planes;
      const int64_t sample = group / groups * together, planes = smaller(size.planes, together - first);
      // Small images are cut all alike.
      const bool alike = tile.rows.count != 0 && tile.rows.begin == row && tile.columns.begin == column;
      tile.cleared = alike && planes <= tile.planes;
      if (!alike) {
        tile.rows = cut_axis(a.rows, row, smaller(size.rows, a.rows.out - row));
        tile.columns = cut_axis(a.columns, column, smaller(size.columns, a.columns.out - column));
      }
      tile.plane = sample + first, tile.channel = channel;
      tile.planes = planes;
      tile.channels = smaller(size.channels, a.inner - channel);
      tile.pitch = tile.columns.length * tile.channels;
      const T* x = static_cast<const T*>(a.x) + channel;
      T* y = static_cast<T*>(a.y) + channel;
      x += a.order == Order::to_contiguous ? sample * in + first : tile.plane * in;
      y += a.order == Order::to_channels_last ? sample * out + first : tile.plane * out;
      if (by_pixel(a)) {
        run_pixels(a, g, finish, tile, x, y, &buffers);
      } else {
        run_tile(a, g, finish, tile, x, y, &buffers);
      }
    }
  }
}

}  // namespace

void upfirdn2d(const Upfirdn2d& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) { run<decltype(t)>(arguments, threads); });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
