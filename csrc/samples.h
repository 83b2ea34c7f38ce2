// Ops on a batch of samples: a tensor [N, ...], as it is stored, is taken as [count, size].
#pragma once

#include <cstdint>

#include "dtype.h"

namespace fastgan {

// Values per sample (norms, c, eps) are float, or double for float64.
struct SampleNorm {
  const void* x;    // [count, size]
  void* norms;      // [count]
  void* workspace;  // sample_norm_workspace doubles
  int64_t count, size;
  bool squared;
  DType dtype;
};

// y = coefficient * x.
struct ScaleSamples {
  const void* x;      // [count, size]
  const void* c;      // [count]
  const void* norms;  // [count], or null
  void* y;            // [count, size]
  int64_t count, size;
  double factor;
  DType dtype;
};

// y = eps * real + (1 - eps) * fake.
struct Interpolate {
  const void* real;  // [count, size]
  const void* fake;  // [count, size]
  const void* eps;   // [count]
  void* y;           // [count, size]
  int64_t count, size;
  DType dtype;
};

// dreal = eps * dy, dfake = (1 - eps) * dy.
struct InterpolateBackward {
  const void* dy;   // [count, size]
  const void* eps;  // [count]
  void* dreal;      // [count, size]
  void* dfake;      // [count, size]
  int64_t count, size;
  DType dtype;
};

// factor * c, divided by the norm if there is one: where that is 0, the subgradient of a norm is 0.
template <typename A>
constexpr A coefficient(const void* c, const void* norms, double factor, int64_t n) {
  const A scaled = static_cast<const A*>(c)[n] * static_cast<A>(factor);
  if (norms == nullptr) return scaled;
  const A norm = static_cast<const A*>(norms)[n];
  return norm == 0 ? A(0) : scaled / norm;
}

}  // namespace fastgan
