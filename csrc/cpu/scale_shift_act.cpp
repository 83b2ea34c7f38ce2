// Scale, shift and activation on the CPU, in one pass forward and one pass backward.
#include "activate.h"
#include "channels.h"
#include "math.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

// The coefficients of adjacent values: of one channel, or a row of channels. Where they are not centered,
// center, linear and constant are 0 and not read.
template <typename A, bool kIsCentered>
struct OfChannel {
  static constexpr bool kCentered = kIsCentered;
  Coefficients<A> of;
  A scale(int64_t) const { return of.scale; }
  A shift(int64_t) const { return of.shift; }
  A center(int64_t) const { return kCentered ? of.center : A(0); }
  A linear(int64_t) const { return of.linear; }
  A constant(int64_t) const { return of.constant; }
};
template <typename A, bool kIsCentered>
struct OfRow {
  static constexpr bool kCentered = kIsCentered;
  const CoefficientRow<A, kCentered>& of;
  A scale(int64_t j) const { return of.scale[j]; }
  A shift(int64_t j) const { return of.shift[j]; }
  A center(int64_t j) const { return kCentered ? of.center[j] : A(0); }
  A linear(int64_t j) const { return of.linear[j]; }
  A constant(int64_t j) const { return of.constant[j]; }
};

// Calls f(std::integral_constant of whether one of these values is given).
template <typename F>
void dispatch_centered(bool centered, F f) {
  centered ? f(std::true_type{}) : f(std::false_type{});
}

// --- forward ---

// z, or y for an activation that joins.
template <Activation act, typename X, typename A, typename C>
void transform(const X* x, A* z, int64_t size, A alpha, const C& c) {
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) {
    z[j] = activation<act, Math>(c.scale(j) * (load(x[j]) - c.center(j)) + c.shift(j), alpha);
  }
}

// Calls f(activation, x, z) with some values of x, for f to `transform` them, and stores y.
template <typename T, typename F>
void activated(const ScaleShiftAct& a, int64_t at, int64_t size, F f) {
  using A = typename Accumulator<T>::type;
  T* y = static_cast<T*>(a.y) + at;
  Direct<T> buffer[kRow];
  A out_buffer[kRow];
  A* z = landing(y, out_buffer);
  const Direct<T>* x = widen(static_cast<const T*>(a.x) + at, buffer, size);
  dispatch_joined(a.affine.act, [&](auto act) { f(act, x, z); });
  if (!joins(a.affine.act)) activate(a.affine.act, z, nullptr, static_cast<A>(a.affine.alpha), z, size);
  narrow(z, y, size);
}

template <typename T, bool kCentered>
void forward(const ScaleShiftAct& a, int threads) {
  using A = typename Accumulator<T>::type;
  const A alpha = static_cast<A>(a.affine.alpha);
  if (a.shape.last) {
    const ChannelLayout shape = merged(a.shape, a.affine.scale, a.affine.shift, a.affine.center);
    for_each_rows(shape, threads, [&](const Rows& rows) {
      const CoefficientRow<A, kCentered> row(rows, a.affine);
      for_each_row(rows, [&](int64_t, int64_t at, int64_t size) {
        activated<T>(a, at, size, [&](auto act, const auto* x, A* z) {
          transform<act()>(x, z, size, alpha, OfRow<A, kCentered>{row});
        });
      });
    });
    return;
  }
  for_each_run(a.shape, threads, [&](const Run& run) {
    for (int64_t at = run.begin; at < run.end; at += kRow) {
      const int64_t size = lesser(kRow, run.end - at);
      activated<T>(a, at, size, [&](auto act, const auto* x, A* z) {
        for_each_channel(a.shape, run, size, [&](int64_t, int64_t n, int64_t c, int64_t first, int64_t numbers) {
          transform<act()>(x + first, z + first, numbers, alpha,
                           OfChannel<A, kCentered>{coefficients<A>(a.affine, n, c)});
        });
      });
    }
  });
}

// --- backward ---

// g of one number, from x - center.
template <Activation act, typename A, typename C>
FASTGAN_MATH A gradient_of_z(A centered, A dy, A alpha, const C& c, int64_t j) {
  return chained<act, Math>(c.scale(j) * centered + c.shift(j), dy, alpha);
}
template <typename A, typename C>
FASTGAN_MATH A gradient_of_x(A centered, A g, const C& c, int64_t j) {
  if constexpr (!C::kCentered) return c.scale(j) * g;
  return c.scale(j) * g + (c.linear(j) * centered + c.constant(j));
}

// Values of one channel: their dx, and sums of g and of g (x - center).
template <Activation act, bool kDx, bool kSums, typename X, typename D, typename A, bool kCentered>
void differentiate(const X* x, const D* dy, A* dx, double* sums, int64_t size, A alpha,
                   const OfChannel<A, kCentered>& c) {
  A of_g = 0, of_products = 0;
#pragma omp simd reduction(+ : of_g, of_products)
  for (int64_t j = 0; j < size; ++j) {
    const A centered = load(x[j]) - c.center(j), g = gradient_of_z<act>(centered, A(load(dy[j])), alpha, c, j);
    if (kSums) of_g += g, of_products += g * centered;
    if (kDx) dx[j] = gradient_of_x(centered, g, c, j);
  }
  if (kSums) sums[0] += of_g, sums[1] += of_products;
}

// The same of a row, and a pair of rows of sums.
template <Activation act, bool kDx, bool kSums, typename X, typename D, typename A, bool kCentered>
void differentiate(const X* x, const D* dy, A* dx, A (*sums)[kRow], int64_t size, A alpha,
                   const OfRow<A, kCentered>& c) {
#pragma omp simd
  for (int64_t j = 0; j < size; ++j) {
    const A centered = load(x[j]) - c.center(j), g = gradient_of_z<act>(centered, A(load(dy[j])), alpha, c, j);
    if (kSums) sums[0][j] += g, sums[1][j] += g * centered;
    if (kDx) dx[j] = gradient_of_x(centered, g, c, j);
  }
}

// Either of them, where dx or sums may be null.
template <Activation act, typename X, typename D, typename A, typename Sums, typename C>
void differentiate(const X* x, const D* dy, A* dx, Sums sums, int64_t size, A alpha, const C& c) {
  if (dx == nullptr) {
    differentiate<act, false, true>(x, dy, dx, sums, size, alpha, c);
  } else if (sums == nullptr) {
    differentiate<act, true, false>(x, dy, dx, sums, size, alpha, c);
  } else {
    differentiate<act, true, true>(x, dy, dx, sums, size, alpha, c);
  }
}

// Calls f(activation, x, dy, dx) with some values, for f to `differentiate` them, and stores dx. Where the activation
// does not join, `make_z(x, z)` comes first, and f gets g as the gradient of linear.
template <typename T, typename Z, typename F>
void differentiated(const ScaleShiftActBackward& a, int64_t at, int64_t size, Z make_z, F f) {
  using A = typename Accumulator<T>::type;
  Direct<T> x_buffer[kRow], dy_buffer[kRow];
  A dy_wide[kRow], g[kRow], out_buffer[kRow];
  const Direct<T>* x = widen(static_cast<const T*>(a.x) + at, x_buffer, size);
  const Direct<T>* dy = widen(static_cast<const T*>(a.dy) + at, dy_buffer, size);
  T* dx = a.dx == nullptr ? nullptr : static_cast<T*>(a.dx) + at;
  A* out = dx == nullptr ? nullptr : landing(dx, out_buffer);
  if (joins(a.affine.act)) {
    dispatch_joined(a.affine.act, [&](auto act) { f(act, x, dy, out); });
  } else {
    make_z(x, g);
    activate(a.affine.act, g, widen(dy, dy_wide, size), static_cast<A>(a.affine.alpha), g, size);
    f(std::integral_constant<Activation, Activation::linear>{}, x, static_cast<const A*>(g), out);
  }
  if (dx != nullptr) narrow(out, dx, size);
}

// The sums of a sample's parts, or of all samples' parts, in their order, for a block of channels at a time.
template <typename A>
void sum_parts(const ScaleShiftActBackward& a, const ChannelLayout& shape, int threads) {
  const int64_t channels = shape.channels, blocks = (channels + kRow - 1) / kRow;
  const int64_t groups = a.per_sample ? shape.count : 1;
  const int64_t parts = (a.per_sample ? 1 : shape.count) * part_count(shape);
  const double* workspace = static_cast<const double*>(a.workspace);
  A* const to[] = {static_cast<A*>(a.dshift), static_cast<A*>(a.dscale)};
#pragma omp parallel for schedule(static) num_threads(threads) if (groups * channels * parts > kSmall)
  for (int64_t i = 0; i < groups * blocks; ++i) {
    const int64_t n = i / blocks, first = i % blocks * kRow, size = lesser(kRow, channels - first);
    for (int k = 0; k < 2; ++k) {
      const double* from = workspace + (n * parts * 2 + k) * channels + first;
      double sums[kRow] = {};
      for (int64_t part = 0; part < parts; ++part) {
#pragma omp simd
        for (int64_t j = 0; j < size; ++j) sums[j] += from[part * 2 * channels + j];
      }
#pragma omp simd
      for (int64_t j = 0; j < size; ++j) to[k][n * channels + first + j] = static_cast<A>(sums[j]);
    }
  }
}

template <typename T, bool kCentered>
void backward_rows(const ScaleShiftActBackward& a, const ChannelLayout& shape, int threads) {
  using A = typename Accumulator<T>::type;
  const Affine& affine = a.affine;
  const A alpha = static_cast<A>(affine.alpha);
  for_each_rows(shape, threads, [&](const Rows& rows) {
    const CoefficientRow<A, kCentered> row(rows, affine, a.linear, a.constant);
    const OfRow<A, kCentered> c{row};
    RowSums<A> sums(rows.width);
    A(*some)[kRow] = a.dscale ? sums.some : nullptr;
    for_each_row(rows, [&](int64_t i, int64_t at, int64_t size) {
      const auto make_z = [&](const auto* x, A* z) { transform<Activation::linear>(x, z, size, alpha, c); };
      differentiated<T>(a, at, size, make_z, [&](auto act, const auto* x, const auto* dy, A* dx) {
        differentiate<act()>(x, dy, dx, some, size, alpha, c);
      });
      if (some != nullptr && i % kRowsAtOnce == kRowsAtOnce - 1) sums.flush(rows.width);
    });
    const int64_t part = rows.n * part_count(shape) + rows.part, channels = shape.channels;
    if (a.dscale) sums.store(static_cast<double*>(a.workspace) + part * 2 * channels, rows, channels);
  });
  if (a.dscale) sum_parts<A>(a, shape, threads);
}

template <typename T, bool kCentered>
void backward_channels(const ScaleShiftActBackward& a, int threads) {
  using A = typename Accumulator<T>::type;
  const A alpha = static_cast<A>(a.affine.alpha);
  for_each_run(a.shape, threads, [&](const Run& run) {
    double sums[kRow][2];
    for (int64_t i = 0; i < run.count; ++i) sums[i][0] = 0, sums[i][1] = 0;
    for (int64_t at = run.begin; at < run.end; at += kRow) {
      const int64_t size = lesser(kRow, run.end - at);
      const auto make_z = [&](const auto* x, A* z) {
        for_each_channel(a.shape, run, size, [&](int64_t, int64_t n, int64_t c, int64_t first, int64_t numbers) {
          const OfChannel<A, kCentered> by{coefficients<A>(a.affine, n, c)};
          transform<Activation::linear>(x + first, z + first, numbers, alpha, by);
        });
      };
      differentiated<T>(a, at, size, make_z, [&](auto act, const auto* x, const auto* dy, A* dx) {
        for_each_channel(a.shape, run, size, [&](int64_t i, int64_t n, int64_t c, int64_t first, int64_t numbers) {
          const OfChannel<A, kCentered> by{coefficients<A>(a.affine, n, c, a.linear, a.constant)};
          A* to = dx == nullptr ? nullptr : dx + first;
          differentiate<act()>(x + first, dy + first, to, a.dscale ? sums[i] : nullptr, numbers, alpha, by);
        });
      });
    }
    if (a.dscale == nullptr) return;
    for_each_channel(a.shape, run, 0, [&](int64_t i, int64_t n, int64_t c, int64_t, int64_t) {
      double* to = static_cast<double*>(a.workspace) + n * 2 * a.shape.channels + c;
      to[0] = sums[i][0];
      to[a.shape.channels] = sums[i][1];
    });
  });
  if (a.dscale) sum_parts<A>(a, a.shape, threads);
}

template <typename T, bool kCentered>
void backward(const ScaleShiftActBackward& a, int threads) {
  const Affine& by = a.affine;
  const bool sums_of_samples = a.dscale && a.per_sample;
  const ChannelLayout shape =
      sums_of_samples ? a.shape : merged(a.shape, by.scale, by.shift, by.center, a.linear, a.constant);
  shape.last ? backward_rows<T, kCentered>(a, shape, threads) : backward_channels<T, kCentered>(a, threads);
}

}  // namespace

void scale_shift_act(const ScaleShiftAct& arguments, int threads) {
  dispatch(arguments.shape.dtype, [&](auto t) {
    dispatch_centered(arguments.affine.center.at != nullptr,
                      [&](auto centered) { forward<decltype(t), centered()>(arguments, threads); });
  });
}

void scale_shift_act_backward(const ScaleShiftActBackward& arguments, int threads) {
  const bool plain =
      arguments.affine.center.at == nullptr && arguments.linear.at == nullptr && arguments.constant.at == nullptr;
  dispatch(arguments.shape.dtype, [&](auto t) {
    dispatch_centered(!plain, [&](auto centered) { backward<decltype(t), centered()>(arguments, threads); });
  });
}

int64_t channel_workspace(int64_t count, int64_t channels, int64_t positions, bool last) {
  return count * part_count({count, channels, positions, last, DType::float32}) * 2 * channels;
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
