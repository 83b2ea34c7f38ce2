// CUDA's own functions, by the names that csrc/activations.h calls them.
#pragma once

#include <math.h>

#include "../activations.h"

namespace fastgan::cuda {

struct Math {
  template <typename A>
  FASTGAN_MATH A exp(A x) {
    return ::exp(x);
  }
  template <typename A>
  FASTGAN_MATH A expm1(A x) {
    return ::expm1(x);
  }
  template <typename A>
  FASTGAN_MATH A tanh(A x) {
    return ::tanh(x);
  }
  template <typename A>
  FASTGAN_MATH A log1p(A x) {
    return ::log1p(x);
  }
  template <typename A>
  FASTGAN_MATH A erf(A x) {
    return ::erf(x);
  }
};

}  // namespace fastgan::cuda
