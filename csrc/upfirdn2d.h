// Up-sampling, FIR filtering and down-sampling of images: the arguments, and which inputs and taps an output reads.
//
// Along an axis, with z the input after zeros were inserted, and g the taps in the order in which they meet it:
//   y[o] = sum over j of g[j] z[o * down + j - pad]      z[t] = x[t / up] where up divides t and x has it, else 0
// Only every up-th tap meets an input: the taps of output o are first_tap(o) + t * up, on inputs first_input(o) + t.
#pragma once

#include <cstdint>

#include "bias_act.h"

namespace fastgan {

constexpr int kMaxTaps = 64;
constexpr int64_t kMaxStep = 1 << 29;  // up and down: CUDA counts places between two outputs in ints

struct FilterAxis {
  int64_t in, out;  // sizes
  int64_t taps, up, down;
  int64_t pad;  // zeros before the first; negative if that many are cropped
};

// Whether y is stored as x is. Else one of them is [samples, channels, rows, columns] and the other [samples,
// rows, columns, channels], with `planes` for samples * channels, 1 for `inner` and the channels of the epilogue. CPU
// only.
enum class Order : int { kept, to_channels_last, to_contiguous };

// x and y are [planes, rows, columns, inner]: inner is the number of channels where they are adjacent, else 1.
struct Upfirdn2d {
  const void* x;
  void* y;
  const float* fy;  // [taps of rows], or the whole filter [taps of rows, taps of columns]
  const float* fx;  // [taps of columns], or null
  int64_t planes, inner;
  FilterAxis rows, columns;
  bool flip;  // the filter as it is meets the input; else it is flipped, which makes it a convolution
  double gain;
  DType dtype;
  Order order;
  Epilogue after;
};

// What one output reads.
struct Reach {
  int64_t tap;    // taps tap, tap + up, ...
  int count;      // so many of them; perhaps none
  int64_t input;  // the input of the first; it and others may be outside
};

// The same where tap 0 stands at `at` among inputs and inserted zeros; Int is wide enough for all of it.
template <typename Int>
FASTGAN_ANYWHERE constexpr Reach reach_at(Int at, Int up, Int taps) {
  const Int residue = (up - at % up) % up;
  return {residue, residue < taps ? static_cast<int>((taps - residue - 1) / up + 1) : 0, (at + residue) / up};
}
FASTGAN_ANYWHERE constexpr Reach reach(const FilterAxis& a, int64_t o) {
  return reach_at<int64_t>(o * a.down - a.pad, a.up, a.taps);
}

// The most inputs that `count` neighbouring outputs read together.
FASTGAN_ANYWHERE constexpr int64_t span(const FilterAxis& a, int64_t count) {
  return ((count - 1) * a.down + a.taps - 1) / a.up + 1;
}

// The tap of the stored filter that meets the input as number j.
FASTGAN_ANYWHERE constexpr int64_t stored_tap(const FilterAxis& a, bool flip, int64_t j) {
  return flip ? j : a.taps - 1 - j;
}

}  // namespace fastgan
