// Scale, shift and activation on the CPU, in one pass forward and one pass backward.
#include "activate.h"
#include "channels.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

// The coefficients of numbers that lie side by side: of one channel, or a row of channels.
template <typename A>
struct OfChannel {
  Coefficients<A> of;
  A scale(int64_t) const { return of.scale; }
  A shift(int64_t) const { return of.shift; }
  A center(int64_t) const { return of.center; }
  A linear(int64_t) const { return of.linear; }
  A constant(int64_t) const { return of.constant; }
};
template <typename A>
struct OfRow {
  const CoefficientRow<A>& of;
  A scale(int64_t j) const { return of.scale[j]; }
  A shift(int64_t j) const { return of.shift[j]; }
  A center(int64_t j) const { return of.center[j]; }
  A linear(int64_t j) const { return of.linear[j]; }
  A constant(int64_t j) const { return of.constant[j]; }
};

// --- forward ---

template <typename C, typename A>
void transform(const A* x, A* z, int64_t size, const C& c) {
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) z[j] = c.scale(j) * (x[j] - c.center(j)) + c.shift(j);
}

// Calls f(x, z) with some numbers of x, for f to write z, and stores their activations.
template <typename T, typename F>
void activated(const ScaleShiftAct& a, int64_t at, int64_t size, F f) {
  using A = typename Accumulator<T>::type;
  T* y = static_cast<T*>(a.y) + at;
  A buffer[kRow], out_buffer[kRow];
  A* z = landing(y, out_buffer);
  f(widen(static_cast<const T*>(a.x) + at, buffer, size), z);
  activate(a.affine.act, z, nullptr, static_cast<A>(a.affine.alpha), z, size);
  narrow(z, y, size);
}

template <typename T>
void forward(const ScaleShiftAct& a, int threads) {
  using A = typename Accumulator<T>::type;
  if (a.shape.last) {
    const ChannelLayout shape = merged(a.shape, a.affine.scale, a.affine.shift, a.affine.center);
    for_each_rows(shape, threads, [&](const Rows& rows) {
      const CoefficientRow<A> row(rows, a.affine);
      for_each_row(rows, [&](int64_t, int64_t at, int64_t size) {
        activated<T>(a, at, size, [&](const A* x, A* z) { transform(x, z, size, OfRow<A>{row}); });
      });
    });
    return;
  }
  for_each_run(a.shape, threads, [&](const Run& run) {
    for (int64_t at = run.begin; at < run.end; at += kRow) {
      const int64_t size = lesser(kRow, run.end - at);
      activated<T>(a, at, size, [&](const A* x, A* z) {
        for_each_channel(a.shape, run, size, [&](int64_t, int64_t n, int64_t c, int64_t first, int64_t numbers) {
          transform(x + first, z + first, numbers, OfChannel<A>{coefficients<A>(a.affine, n, c)});
        });
      });
    }
  });
}

// --- backward ---

// Some numbers of x and dy, and what becomes of them.
template <typename A>
struct Piece {
  A x_buffer[kRow], dy_buffer[kRow], centered[kRow], g[kRow], out[kRow];
};

// x - center, and z where g will be.
template <typename C, typename A>
void center(Piece<A>& piece, const A* x, int64_t first, int64_t size, const C& c) {
  A *centered = piece.centered + first, *z = piece.g + first;
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) {
    centered[j] = x[first + j] - c.center(j);
    z[j] = c.scale(j) * centered[j] + c.shift(j);
  }
}

template <typename C, typename A>
void gradient(const Piece<A>& piece, A* dx, int64_t first, int64_t size, const C& c) {
  const A *centered = piece.centered + first, *g = piece.g + first;
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) dx[first + j] = c.scale(j) * g[j] + (c.linear(j) * centered[j] + c.constant(j));
}

// Calls before(x) to write x - center and z, from which g is made, then after(dx) to use them, and stores dx.
template <typename T, typename A, typename F, typename G>
void differentiated(const ScaleShiftActBackward& a, Piece<A>& piece, int64_t at, int64_t size, F before, G after) {
  before(widen(static_cast<const T*>(a.x) + at, piece.x_buffer, size));
  const A* dy = widen(static_cast<const T*>(a.dy) + at, piece.dy_buffer, size);
  activate(a.affine.act, piece.g, dy, static_cast<A>(a.affine.alpha), piece.g, size);
  T* dx = a.dx == nullptr ? nullptr : static_cast<T*>(a.dx) + at;
  A* out = dx == nullptr ? nullptr : landing(dx, piece.out);
  after(out);
  if (dx != nullptr) narrow(out, dx, size);
}

constexpr int64_t kRowsAtOnce = 16;  // summed in the type that is accumulated in, before double

// Sums of g and of g (x - center) of every channel in some rows.
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
  void add(int64_t row, const A* g, const A* centered, int64_t size, int64_t width) {
#pragma omp simd
    for (int64_t j = 0; j < size; ++j) some[0][j] += g[j], some[1][j] += g[j] * centered[j];
    if (row % kRowsAtOnce == kRowsAtOnce - 1) flush(width);
  }
  // Into [2, C] of the workspace.
  void store(double* to, const Rows& rows, int64_t channels) {
    flush(rows.width);
    for (int k = 0; k < 2; ++k) {
      for (int64_t j = rows.channels; j < rows.width; ++j) all[k][j % rows.channels] += all[k][j];
      for (int64_t j = 0; j < rows.channels; ++j) to[k * channels + rows.first + j] = all[k][j];
    }
  }
};

// The sums of the parts in their order.
template <typename A>
void sum_parts(const ScaleShiftActBackward& a, int threads) {
  const int64_t channels = a.shape.channels, parts = part_count(a.shape), all = a.shape.count * channels;
  const double* workspace = static_cast<const double*>(a.workspace);
  A *dshift = static_cast<A*>(a.dshift), *dscale = static_cast<A*>(a.dscale);
#pragma omp parallel for schedule(static) num_threads(threads) if (all * parts > kSmall)
  for (int64_t i = 0; i < all; ++i) {
    const double* from = workspace + i / channels * parts * 2 * channels + i % channels;
    double sums[2] = {};
    for (int64_t part = 0; part < parts; ++part) {
      for (int k = 0; k < 2; ++k) sums[k] += from[(part * 2 + k) * channels];
    }
    dshift[i] = static_cast<A>(sums[0]);
    dscale[i] = static_cast<A>(sums[1]);
  }
}

template <typename T>
void backward_rows(const ScaleShiftActBackward& a, int threads) {
  using A = typename Accumulator<T>::type;
  const Affine& affine = a.affine;
  const ChannelLayout shape =
      a.dscale ? a.shape : merged(a.shape, affine.scale, affine.shift, affine.center, a.linear, a.constant);
  for_each_rows(shape, threads, [&](const Rows& rows) {
    const CoefficientRow<A> row(rows, affine, a.linear, a.constant);
    const OfRow<A> c{row};
    RowSums<A> sums(rows.width);
    Piece<A> piece;
    for_each_row(rows, [&](int64_t i, int64_t at, int64_t size) {
      const auto before = [&](const A* x) { center(piece, x, 0, size, c); };
      differentiated<T>(a, piece, at, size, before, [&](A* dx) {
        if (a.dscale) sums.add(i, piece.g, piece.centered, size, rows.width);
        if (dx) gradient(piece, dx, 0, size, c);
      });
    });
    const int64_t part = rows.n * part_count(a.shape) + rows.part, channels = a.shape.channels;
    if (a.dscale) sums.store(static_cast<double*>(a.workspace) + part * 2 * channels, rows, channels);
  });
  if (a.dscale) sum_parts<A>(a, threads);
}

template <typename T>
void backward_channels(const ScaleShiftActBackward& a, int threads) {
  using A = typename Accumulator<T>::type;
  for_each_run(a.shape, threads, [&](const Run& run) {
    Piece<A> piece;
    double dscale[kRow], dshift[kRow];
    for (int64_t i = 0; i < run.count; ++i) dscale[i] = 0, dshift[i] = 0;
    for (int64_t at = run.begin; at < run.end; at += kRow) {
      const int64_t size = lesser(kRow, run.end - at);
      const auto before = [&](const A* x) {
        for_each_channel(a.shape, run, size, [&](int64_t, int64_t n, int64_t c, int64_t first, int64_t numbers) {
          center(piece, x, first, numbers, OfChannel<A>{coefficients<A>(a.affine, n, c)});
        });
      };
      differentiated<T>(a, piece, at, size, before, [&](A* dx) {
        for_each_channel(a.shape, run, size, [&](int64_t i, int64_t n, int64_t c, int64_t first, int64_t numbers) {
          const A *g = piece.g + first, *centered = piece.centered + first;
          A some_dscale = 0, some_dshift = 0;
          if (a.dscale) {
#pragma omp simd reduction(+ : some_dscale, some_dshift)
            for (int64_t j = 0; j < numbers; ++j) some_dshift += g[j], some_dscale += g[j] * centered[j];
          }
          dscale[i] += some_dscale;
          dshift[i] += some_dshift;
          if (dx == nullptr) return;
          gradient(piece, dx, first, numbers, OfChannel<A>{coefficients<A>(a.affine, n, c, a.linear, a.constant)});
        });
      });
    }
    if (a.dscale == nullptr) return;
    const int64_t first = run.n * a.shape.channels + run.c;
    for (int64_t i = 0; i < run.count; ++i) {
      static_cast<A*>(a.dscale)[first + i] = static_cast<A>(dscale[i]);
      static_cast<A*>(a.dshift)[first + i] = static_cast<A>(dshift[i]);
    }
  });
}

}  // namespace

void scale_shift_act(const ScaleShiftAct& arguments, int threads) {
  dispatch(arguments.shape.dtype, [&](auto t) { forward<decltype(t)>(arguments, threads); });
}

void scale_shift_act_backward(const ScaleShiftActBackward& arguments, int threads) {
  dispatch(arguments.shape.dtype, [&](auto t) {
    using T = decltype(t);
    arguments.shape.last ? backward_rows<T>(arguments, threads) : backward_channels<T>(arguments, threads);
  });
}

int64_t channel_workspace(int64_t count, int64_t channels, int64_t positions, bool last) {
  return count * part_count({count, channels, positions, last, DType::float32}) * 2 * channels;
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
