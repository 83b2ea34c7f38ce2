// Bias, activation and pixel shuffle: the places that values go to.
#pragma once

#include <cstdint>

#include "activations.h"
#include "dtype.h"

namespace fastgan {

// The most that the shuffle enlarges an image; fastgan/ops/pixel_shuffle_act.py refuses more.
constexpr int64_t kMostFactor = 16;

// Forward (dy null): y[n, c, r h + i, r w + j] = f(z[n, r r c + r i + j, h, w]) with z = x + bias.
// Backward: dx = f'(z) dy, at its place.
struct PixelShuffleAct {
  const void* dy;    // [count, channels, r height, r width], or null
  const void* x;     // [count, r r channels, height, width]; null in the backward of linear
  const void* bias;  // [r r channels] float, or double for float64; or null
  void* out;         // y or dx
  int64_t factor, count, channels, height, width;
  bool last;  // both [count, height, width, channels]
  Activation act;
  double alpha;
  DType dtype;
};

// Where the number of x at channel r r c + r i + j and position [h, w] of sample n is, and where it goes in y.
constexpr int64_t place_in_x(const PixelShuffleAct& a, int64_t n, int64_t c, int64_t i, int64_t j, int64_t h,
                             int64_t w) {
  const int64_t r = a.factor, channel = (c * r + i) * r + j, channels = a.channels * r * r;
  return a.last ? ((n * a.height + h) * a.width + w) * channels + channel
                : ((n * channels + channel) * a.height + h) * a.width + w;
}
constexpr int64_t place_in_y(const PixelShuffleAct& a, int64_t n, int64_t c, int64_t i, int64_t j, int64_t h,
                             int64_t w) {
  const int64_t r = a.factor, row = h * r + i, column = w * r + j;
  return a.last ? ((n * a.height * r + row) * a.width * r + column) * a.channels + c
                : ((n * a.channels + c) * a.height * r + row) * a.width * r + column;
}

}  // namespace fastgan
