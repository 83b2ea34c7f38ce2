// Bias, activation and pixel shuffle on the CPU, in one pass.
//
// Several lines of values become one, interleaved, or the other way: r lines along the width of x one of
// y, or where the channels are innermost, one of x the r r lines of y. The activation works on x as it is stored.
#include "../pixel_shuffle_act.h"

#include "activate.h"
#include "convert.h"
#include "math.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kLine = 1024;      // values at a time, at least kMostFactor squared
constexpr int64_t kSmall = 1 << 15;  // up to so many values one thread is faster than several
static_assert(kLine >= kMostFactor * kMostFactor);

// f(x + bias(k)) of values next to each other, or f'(x + bias(k)) dy.
template <Activation act, typename X, typename A, typename B>
void compute(const X* x, const X* dy, B bias, A alpha, A* z, int64_t n) {
  if (dy == nullptr) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) z[k] = activation<act, Math>(load(x[k]) + bias(k), alpha);
  } else {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) z[k] = chained<act, Math>(load(x[k]) + bias(k), A(load(dy[k])), alpha);
  }
}

// The same, stored; values of the bias are `bias_step` apart, 0 or 1.
template <typename T>
void activate_line(const PixelShuffleAct& a, const T* x, const T* dy, const void* bias, int64_t bias_step, T* out,
                   int64_t n) {
  using A = typename Accumulator<T>::type;
  if (a.act == Activation::linear && (dy != nullptr || bias == nullptr)) {
    const T* from = dy == nullptr ? x : dy;
    for (int64_t k = 0; k < n; ++k) out[k] = from[k];
    return;
  }
  Direct<T> x_buffer[kLine], dy_buffer[kLine];
  A dy_wide[kLine], z_buffer[kLine];
  const Direct<T>* xs = widen(x, x_buffer, n);
  const Direct<T>* dys = dy == nullptr || !joins(a.act) ? nullptr : widen(dy, dy_buffer, n);
  const A *b = static_cast<const A*>(bias), alpha = static_cast<A>(a.alpha), same = b == nullptr ? A(0) : b[0];
  A* z = landing(out, z_buffer);
  dispatch_joined(a.act, [&](auto act) {
    if (b == nullptr || bias_step == 0) {
      compute<act()>(xs, dys, [=](int64_t) { return same; }, alpha, z, n);
    } else {
      compute<act()>(xs, dys, [=](int64_t k) { return b[k]; }, alpha, z, n);
    }
  });
  if (!joins(a.act)) activate(a.act, z, dy == nullptr ? nullptr : widen(dy, dy_wide, n), alpha, z, n);
  narrow(z, out, n);
}

// The values of `count` lines interleaved, n of each, and back; the lines are `apart` from each other.
template <int kCount, typename T>
void weave(const T* lines, int64_t apart, T* woven, int64_t count, int64_t n) {
  if (kCount != 0) count = kCount;
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t j = 0; j < count; ++j) woven[k * count + j] = lines[j * apart + k];
  }
}
template <int kCount, typename T>
void unweave(const T* woven, T* lines, int64_t apart, int64_t count, int64_t n) {
  if (kCount != 0) count = kCount;
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t j = 0; j < count; ++j) lines[j * apart + k] = woven[k * count + j];
  }
}

template <typename T>
const T* from(const void* numbers, int64_t place) {
  return numbers == nullptr ? nullptr : static_cast<const T*>(numbers) + place;
}

// One line of y along the width, from r of x.
template <typename T, int kFactor>
void row(const PixelShuffleAct& a, int64_t n, int64_t c, int64_t i, int64_t h) {
  using A = typename Accumulator<T>::type;
  const int64_t r = a.factor, apart = kLine / r;
  T lines[kLine];
  for (int64_t w = 0; w < a.width; w += apart) {
    const int64_t size = a.width - w < apart ? a.width - w : apart, in_y = place_in_y(a, n, c, i, 0, h, w);
    if (a.dy != nullptr) unweave<kFactor>(from<T>(a.dy, in_y), lines, apart, r, size);
    for (int64_t j = 0; j < r; ++j) {
      const int64_t in_x = place_in_x(a, n, c, i, j, h, w);
      const A* bias = from<A>(a.bias, (c * r + i) * r + j);
      T* line = lines + j * apart;
      T* out = a.dy == nullptr ? line : static_cast<T*>(a.out) + in_x;
      activate_line(a, from<T>(a.x, in_x), a.dy == nullptr ? nullptr : line, bias, 0, out, size);
    }
    if (a.dy == nullptr) weave<kFactor>(lines, apart, static_cast<T*>(a.out) + in_y, r, size);
  }
}

// A pixel of x whose channels are adjacent, and the r r pixels of y: r pairs of neighbours in r rows.
template <typename T, int kFactor>
void pixel(const PixelShuffleAct& a, int64_t n, int64_t h, int64_t w) {
  using A = typename Accumulator<T>::type;
  const int64_t r = a.factor, count = r * r, apart = kLine / count;
  T woven[kLine], lines[kLine];
  for (int64_t c = 0; c < a.channels; c += apart) {
    const int64_t size = a.channels - c < apart ? a.channels - c : apart, in_x = place_in_x(a, n, c, 0, 0, h, w);
    if (a.dy != nullptr) {
      for (int64_t ij = 0; ij < count; ++ij) {
        const T* line = from<T>(a.dy, place_in_y(a, n, c, ij / r, ij % r, h, w));
        for (int64_t k = 0; k < size; ++k) lines[ij * apart + k] = line[k];
      }
      weave<kFactor * kFactor>(lines, apart, woven, count, size);
    }
    T* out = a.dy == nullptr ? woven : static_cast<T*>(a.out) + in_x;
    const T* dy = a.dy == nullptr ? nullptr : woven;
    activate_line(a, from<T>(a.x, in_x), dy, from<A>(a.bias, c * count), 1, out, size * count);
    if (a.dy == nullptr) {
      unweave<kFactor * kFactor>(woven, lines, apart, count, size);
      for (int64_t ij = 0; ij < count; ++ij) {
        T* line = static_cast<T*>(a.out) + place_in_y(a, n, c, ij / r, ij % r, h, w);
        for (int64_t k = 0; k < size; ++k) line[k] = lines[ij * apart + k];
      }
    }
  }
}

template <typename T, int kFactor>
void run(const PixelShuffleAct& a, int threads) {
  const int64_t outer = a.last ? a.count * a.height : a.count * a.channels * a.height;
  const int64_t numbers = outer * a.width * a.factor * a.factor * (a.last ? a.channels : 1);
#pragma omp parallel for schedule(static) num_threads(threads) if (numbers > kSmall)
  for (int64_t o = 0; o < outer; ++o) {
    const int64_t h = o % a.height, plane = o / a.height;
    if (a.last) {
      for (int64_t w = 0; w < a.width; ++w) pixel<T, kFactor>(a, plane, h, w);
    } else {
      for (int64_t i = 0; i < a.factor; ++i) {
        row<T, kFactor>(a, plane / a.channels, plane % a.channels, i, h);
      }
    }
  }
}

}  // namespace

void pixel_shuffle_act(const PixelShuffleAct& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) {
    using T = decltype(t);
    arguments.factor == 2 ? run<T, 2>(arguments, threads) : run<T, 0>(arguments, threads);
  });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
