// The loops over activations that ops share; csrc/cpu/activate.cpp holds them once for every type.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../activations.h"
#include "level.h"

namespace fastgan::cpu::FASTGAN_CPU_LEVEL {

// to = f(z), or f'(z) dy where dy is not null, of n values; z may be where the results go.
void activate(Activation kind, const float* z, const float* dy, float alpha, float* to, int64_t n);
void activate(Activation kind, const double* z, const double* dy, double alpha, double* to, int64_t n);

// The piecewise linear ones are cheap: they join the loop that makes z.
constexpr bool joins(Activation kind) {
  return kind == Activation::linear || kind == Activation::relu || kind == Activation::lrelu;
}
// Calls f(std::integral_constant of the activation) for one that joins, and for others as for linear, which leaves z
// to `activate`.
template <typename F>
static inline void dispatch_joined(Activation kind, F f) {
  if (kind == Activation::relu) return f(std::integral_constant<Activation, Activation::relu>{});
  if (kind == Activation::lrelu) return f(std::integral_constant<Activation, Activation::lrelu>{});
  f(std::integral_constant<Activation, Activation::linear>{});
}

}  // namespace fastgan::cpu::FASTGAN_CPU_LEVEL
