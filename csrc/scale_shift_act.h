// Ops on channels: a tensor [N, C, ...] is taken as [count, channels, positions], or where its channels are innermost
// as [count, positions, channels].
#pragma once

#include <cstdint>

#include "activations.h"
#include "dtype.h"

namespace fastgan {

struct ChannelLayout {
  int64_t count, channels, positions;
  bool last;
  DType dtype;
  int64_t inner = 1;  // values of a channel that are adjacent in each of `positions` rows; only where last, on a CPU
};

// Values for every channel, float or double for float64: [C] with stride 0, [N, C] with stride C, or null.
struct PerChannel {
  const void* at;
  int64_t stride;

  template <typename A>
  constexpr A get(int64_t n, int64_t c, A otherwise) const {
    return at == nullptr ? otherwise : static_cast<const A*>(at)[n * stride + c];
  }
};

// z = scale (x - center) + shift.
struct Affine {
  PerChannel scale, shift, center;
  Activation act;
  double alpha;
};

// y = f(z).
struct ScaleShiftAct {
  const void* x;
  void* y;
  ChannelLayout shape;
  Affine affine;
};

// With g = f'(z) dy: dx = scale g + linear (x - center) + constant, dscale = sum of g (x - center), dshift = sum of g.
struct ScaleShiftActBackward {
  const void *dy, *x;
  void* dx;               // or null
  void *dscale, *dshift;  // or null; [C], or [N, C] where per_sample
  void* workspace;        // channel_workspace doubles, where there are sums
  bool per_sample;
  ChannelLayout shape;
  Affine affine;
  PerChannel linear, constant;
};

// Mean and biased variance of every channel [C], or of every sample's channel [N, C].
struct ChannelStatistics {
  const void* x;
  void *mean, *var;
  void* workspace;  // channel_workspace doubles
  ChannelLayout shape;
  bool per_sample;
};

// Normalization as a whole, where a call costs as much as a small kernel: on the CPU. y = f(z) with
// z = weight (x - mean) / sqrt(var + eps) + bias.
struct NormAct {
  const void* x;
  void* y;
  void *mean, *var;  // [C], or [N, C] where per_sample
  void* workspace;   // norm_act_workspace doubles
  ChannelLayout shape;
  bool per_sample;
  PerChannel weight, bias;
  double eps;
  Activation act;
  double alpha;
};

// Its gradients; those of weight and bias have their shapes.
struct NormActBackward {
  const void *dy, *x, *mean, *var;
  void *dx, *dweight, *dbias;  // or null
  void* workspace;             // norm_act_workspace doubles
  ChannelLayout shape;
  bool per_sample;
  PerChannel weight, bias;
  double eps;
  Activation act;
  double alpha;
};

// The values that scale and shift one channel, and what its gradient is made of.
template <typename A>
struct Coefficients {
  A scale, shift, center, linear, constant;
};
template <typename A>
constexpr Coefficients<A> coefficients(const Affine& a, int64_t n, int64_t c, PerChannel linear = {},
                                       PerChannel constant = {}) {
  return {a.scale.get<A>(n, c, 1), a.shift.get<A>(n, c, 0), a.center.get<A>(n, c, 0), linear.get<A>(n, c, 0),
          constant.get<A>(n, c, 0)};
}

// Mean and sum of squared deviations of some values.
struct Moments {
  double mean, squares;
};
// Of n values, from the sums of their distances to a center among them and of the squares of those. A sum of squares
// about one of the values is at most n times larger than the one about the mean: in double little is lost.
constexpr Moments moments(double center, double sum, double squares, int64_t n) {
  const double rest = squares - sum * sum / static_cast<double>(n);
  return {center + sum / static_cast<double>(n), rest < 0 ? 0 : rest};
}

}  // namespace fastgan
