// y = clamp(gain f(x + b)) with a number b per channel, its first and its second derivative.
#pragma once

#include "activations.h"
#include "channels.h"

namespace fastgan {

// What is computed of a number, and what the derivatives are taken from: z = x + b, or y, if that determines them.
enum class BiasActPart : int { value = 0, slope = 1, slope_at_value = 2, curvature = 3, curvature_at_value = 4 };
constexpr int kBiasActParts = 5;
constexpr bool has_dy(BiasActPart part) { return part != BiasActPart::value; }
constexpr bool has_ddx(BiasActPart part) {
  return part == BiasActPart::curvature || part == BiasActPart::curvature_at_value;
}
constexpr bool at_value(BiasActPart part) {
  return part == BiasActPart::slope_at_value || part == BiasActPart::curvature_at_value;
}

struct BiasAct {
  const void* x;    // or y, for a part at the value
  const void* b;    // [channels] or null; float, or double for float64
  const void* dy;   // null for the value
  const void* ddx;  // null but for a curvature
  void* out;
  Channels shape;  // of all of them
  Activation act;
  BiasActPart part;
  double alpha, gain;
  double clamp;  // NaN for none: no number is above it
  DType dtype;
};

// The constants in the type that is computed in. The clamp is one of the dtype's values, which clamped ones then
// equal.
template <typename A>
struct BiasActNumbers {
  A alpha, gain, inverse_gain, clamp;
};
template <typename A, typename Arguments>
FASTGAN_ANYWHERE constexpr BiasActNumbers<A> bias_act_numbers(const Arguments& a, A rounded_clamp) {
  return {static_cast<A>(a.alpha), static_cast<A>(a.gain), static_cast<A>(1 / a.gain), rounded_clamp};
}

// What an op may do with its sums on their way to memory: y = clamp(gain f(sum + b)), f piecewise linear.
struct Epilogue {
  const void* b;  // [channels] or null; float, or double for float64
  int64_t channels;
  Activation act;  // linear, relu or lrelu
  double alpha, gain;
  double clamp;  // NaN for none
  bool there;
};

// Calls f as `dispatch_activation` does.
template <typename F>
FASTGAN_MATH void dispatch_piecewise_linear(Activation kind, F f) {
  if (kind == Activation::relu) return f(std::integral_constant<Activation, Activation::relu>{});
  if (kind == Activation::lrelu) return f(std::integral_constant<Activation, Activation::lrelu>{});
  f(std::integral_constant<Activation, Activation::linear>{});
}

// One number of the result: z is x + b, or y for a part at the value.
template <Activation act, BiasActPart part, typename Math, typename A>
FASTGAN_MATH A bias_act_number(A z, A dy, A ddx, const BiasActNumbers<A>& by) {
  if constexpr (part == BiasActPart::value) {
    const A y = by.gain * activation<act, Math>(z, by.alpha);
    // One after the other: that is a minimum and a maximum, and a NaN stays one.
    const A below = y > by.clamp ? by.clamp : y;
    return below < -by.clamp ? -by.clamp : below;
  } else if constexpr (part == BiasActPart::slope_at_value) {
    const A s = by.gain * slope_at_value<act, Math>(z * by.inverse_gain, by.alpha);
    // A slope of 0 stops an infinite gradient, as torch's relu and clamp do.
    return z >= by.clamp || z <= -by.clamp || s == 0 ? A(0) : dy * s;
  } else if constexpr (part == BiasActPart::curvature_at_value) {
    const A c = dy * ddx * curvature_at_value<act, Math>(z * by.inverse_gain);
    return z >= by.clamp || z <= -by.clamp ? A(0) : c;
  } else {
    const A y = by.gain * activation<act, Math>(z, by.alpha);
    const bool clamped = y >= by.clamp || y <= -by.clamp;
    if constexpr (part == BiasActPart::slope) {
      const A s = by.gain * slope<act, Math>(z, by.alpha);
      return clamped || s == 0 ? A(0) : dy * s;
    } else {
      const A c = dy * ddx * (by.gain * curvature<act, Math>(z));
      return clamped ? A(0) : c;
    }
  }
}

}  // namespace fastgan
