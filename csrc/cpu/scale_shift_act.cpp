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

template <typename T, typename C, typename A>
void transform(const T* x, T* y, int64_t size, const C& c, Activation act, A alpha) {
  A buffer[kRow], out_buffer[kRow];
  const A* from = widen(x, buffer, size);
  A* z = landing(y, out_buffer);
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) z[j] = c.scale(j) * (from[j] - c.center(j)) + c.shift(j);
  activate(act, z, nullptr, alpha, z, size);
  narrow(z, y, size);
}

template <typename T>
void forward(const ScaleShiftAct& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const A alpha = static_cast<A>(a.affine.alpha);
  if (a.shape.last) {
    for_each_rows(a.shape, threads, [&](const Rows& rows) {
      const CoefficientRow<A> row(rows, a.affine);
      for_each_row(rows, [&](int64_t, int64_t at, int64_t size) {
        transform(x + at, y + at, size, OfRow<A>{row}, a.affine.act, alpha);
      });
    });
  } else {
    for_each_channel(a.shape, threads, [&](int64_t n, int64_t channel, int64_t begin) {
      const OfChannel<A> c{coefficients<A>(a.affine, n, channel)};
      for (int64_t at = begin, end = begin + a.shape.positions; at < end; at += kRow) {
        transform(x + at, y + at, lesser(kRow, end - at), c, a.affine.act, alpha);
      }
    });
  }
}

// --- backward ---

// Some numbers of x and dy, and what becomes of them.
template <typename T>
struct Piece {
  using A = typename Accumulator<T>::type;
  A x_buffer[kRow], dy_buffer[kRow], centered[kRow], g[kRow], out[kRow];
};

// g and x - center.
template <typename T, typename C, typename A>
void differentiate(Piece<T>& piece, const T* x, const T* dy, int64_t size, const C& c, Activation act, A alpha) {
  const A *xs = widen(x, piece.x_buffer, size), *dys = widen(dy, piece.dy_buffer, size);
  A *centered = piece.centered, *g = piece.g;
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) {
    centered[j] = xs[j] - c.center(j);
    g[j] = c.scale(j) * centered[j] + c.shift(j);
  }
  activate(act, g, dys, alpha, g, size);
}

template <typename T, typename C>
void store_dx(Piece<T>& piece, T* dx, int64_t size, const C& c) {
  const auto *centered = piece.centered, *g = piece.g;
  auto* to = landing(dx, piece.out);
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) to[j] = c.scale(j) * g[j] + (c.linear(j) * centered[j] + c.constant(j));
  narrow(to, dx, size);
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
void backward(const ScaleShiftActBackward& a, int threads) {
  using A = typename Accumulator<T>::type;
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
  T* dx = static_cast<T*>(a.dx);
  const A alpha = static_cast<A>(a.affine.alpha);
  const int64_t channels = a.shape.channels;
  if (a.shape.last) {
    for_each_rows(a.shape, threads, [&](const Rows& rows) {
      const CoefficientRow<A> row(rows, a.affine, a.linear, a.constant);
      const OfRow<A> c{row};
      RowSums<A> sums(rows.width);
      Piece<T> piece;
      for_each_row(rows, [&](int64_t i, int64_t at, int64_t size) {
        differentiate(piece, x + at, dy + at, size, c, a.affine.act, alpha);
        if (a.dscale) sums.add(i, piece.g, piece.centered, size, rows.width);
        if (dx) store_dx(piece, dx + at, size, c);
      });
      const int64_t part = rows.n * part_count(a.shape) + rows.part;
      if (a.dscale) sums.store(static_cast<double*>(a.workspace) + part * 2 * channels, rows, channels);
    });
    if (a.dscale) sum_parts<A>(a, threads);
    return;
  }
  for_each_channel(a.shape, threads, [&](int64_t n, int64_t channel, int64_t begin) {
    const OfChannel<A> c{coefficients<A>(a.affine, n, channel, a.linear, a.constant)};
    Piece<T> piece;
    double dscale = 0, dshift = 0;
    for (int64_t at = begin, end = begin + a.shape.positions; at < end; at += kRow) {
      const int64_t size = lesser(kRow, end - at);
      differentiate(piece, x + at, dy + at, size, c, a.affine.act, alpha);
      if (a.dscale) {
        A some_dscale = 0, some_dshift = 0;
#pragma omp simd reduction(+ : some_dscale, some_dshift)
        for (int64_t j = 0; j < size; ++j) some_dshift += piece.g[j], some_dscale += piece.g[j] * piece.centered[j];
        dscale += some_dscale;
        dshift += some_dshift;
      }
      if (dx) store_dx(piece, dx + at, size, c);
    }
    if (a.dscale) {
      static_cast<A*>(a.dscale)[n * channels + channel] = static_cast<A>(dscale);
      static_cast<A*>(a.dshift)[n * channels + channel] = static_cast<A>(dshift);
    }
  });
}

}  // namespace

void scale_shift_act(const ScaleShiftAct& arguments, int threads) {
  dispatch(arguments.shape.dtype, [&](auto t) { forward<decltype(t)>(arguments, threads); });
}

void scale_shift_act_backward(const ScaleShiftActBackward& arguments, int threads) {
  dispatch(arguments.shape.dtype, [&](auto t) { backward<decltype(t)>(arguments, threads); });
}

int64_t channel_workspace(int64_t count, int64_t channels, int64_t positions, bool last) {
  return count * part_count({count, channels, positions, last, DType::float32}) * 2 * channels;
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
