// Bias, activation and pixel shuffle on the CPU, in one pass: lines of x that lie side by side, with a stride in y.
#include "../pixel_shuffle_act.h"

#include "math.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {
namespace {

constexpr int64_t kLine = 512;       // numbers converted at a time
constexpr int64_t kSmall = 1 << 15;  // up to so many numbers one thread is faster than several

// n numbers that lie `step` apart, side by side in the buffer.
template <int kStep, typename T>
inline const T* gather(const T* from, int64_t step, T* buffer, int64_t n) {
  if (step == 1) return from;
  if (kStep != 0) step = kStep;
  for (int64_t k = 0; k < n; ++k) buffer[k] = from[k * step];
  return buffer;
}

// One number after the other of two lines or four, into a line of their own: loops that the compiler turns into
// permutations.
template <int kStep, typename T>
inline void scatter(const T* from, T* to, int64_t step, int64_t n) {
  if (kStep != 0) step = kStep;
  for (int64_t k = 0; k < n; ++k) to[k * step] = from[k];
}

// A line of x and where its numbers are in y: `x_step` and `y_step` apart.
template <typename T, Activation act, int kStep>
void line(const PixelShuffleAct& a, int64_t in_x, int64_t x_step, int64_t in_y, int64_t y_step, int64_t channel,
          int64_t channel_step, int64_t size) {
  using A = typename Accumulator<T>::type;
  const T *x = static_cast<const T*>(a.x), *dy = static_cast<const T*>(a.dy);
  const A *bias = static_cast<const A*>(a.bias), alpha = static_cast<A>(a.alpha);
  T *out = static_cast<T*>(a.out), x_line[kLine], dy_line[kLine], out_line[kLine];
  A x_buffer[kLine], dy_buffer[kLine], z[kLine], result[kLine];
  for (int64_t start = 0; start < size; start += kLine) {
    const int64_t n = size - start < kLine ? size - start : kLine;
    if (x != nullptr) {
      const A* xs = widen(gather<kStep>(x + in_x + start * x_step, x_step, x_line, n), x_buffer, n);
      if (bias == nullptr) {
        for (int64_t k = 0; k < n; ++k) z[k] = xs[k];
      } else {
        const A* b = bias + channel + start * channel_step;
        for (int64_t k = 0; k < n; ++k) z[k] = xs[k] + b[k * channel_step];
      }
    }
    if (dy == nullptr) {
#pragma omp simd
      for (int64_t k = 0; k < n; ++k) result[k] = activation<act, Math>(z[k], alpha);
      narrow(result, out_line, n);
      scatter<kStep>(out_line, out + in_y + start * y_step, y_step, n);
    } else {
      const A* dys = widen(gather<kStep>(dy + in_y + start * y_step, y_step, dy_line, n), dy_buffer, n);
#pragma omp simd
      for (int64_t k = 0; k < n; ++k) result[k] = slope<act, Math>(z[k], alpha) * dys[k];
      narrow(result, out_line, n);
      scatter<kStep>(out_line, out + in_x + start * x_step, x_step, n);
    }
  }
}

template <typename T, Activation act>
void run(const PixelShuffleAct& a, int threads) {
  const int64_t r = a.factor, outer = a.last ? a.count * a.height : a.count * a.channels * a.height;
  const int64_t numbers = a.count * a.channels * r * r * a.height * a.width;
#pragma omp parallel for schedule(static) num_threads(threads) if (numbers > kSmall)
  for (int64_t o = 0; o < outer; ++o) {
    const int64_t h = o % a.height, c = a.last ? 0 : o / a.height % a.channels;
    const int64_t n = a.last ? o / a.height : o / a.height / a.channels;
    for (int64_t i = 0; i < r; ++i) {
      for (int64_t w = 0; a.last && w < a.width; ++w) {
        for (int64_t j = 0; j < r; ++j) {
          const int64_t in_x = place_in_x(a, n, c, i, j, h, w), in_y = place_in_y(a, n, c, i, j, h, w);
          if (r == 2) {
            line<T, act, 4>(a, in_x, 4, in_y, 1, i * 2 + j, 4, a.channels);
          } else {
            line<T, act, 0>(a, in_x, r * r, in_y, 1, i * r + j, r * r, a.channels);
          }
        }
      }
      for (int64_t j = 0; !a.last && j < r; ++j) {
        const int64_t in_x = place_in_x(a, n, c, i, j, h, 0), in_y = place_in_y(a, n, c, i, j, h, 0);
        if (r == 2) {
          line<T, act, 2>(a, in_x, 1, in_y, 2, (c * 2 + i) * 2 + j, 0, a.width);
        } else {
          line<T, act, 0>(a, in_x, 1, in_y, r, (c * r + i) * r + j, 0, a.width);
        }
      }
    }
  }
}

}  // namespace

void pixel_shuffle_act(const PixelShuffleAct& arguments, int threads) {
  dispatch(arguments.dtype, [&](auto t) {
    dispatch_activation(arguments.act, [&](auto act) { run<decltype(t), act>(arguments, threads); });
  });
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
