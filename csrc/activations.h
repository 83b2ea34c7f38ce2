// The activations f(z) that kernels compute, with their first and second derivatives, for the CPU and for CUDA.
//
// `Math` offers exp, expm1, tanh, erf and log1p: csrc/cpu/math.h, whose loops the compiler vectorises, or
// csrc/cuda/math.cuh. A is float or double. The same in torch: fastgan/reference/activations.py, which defines them.
#pragma once

#include <type_traits>

#ifdef __CUDACC__
#define FASTGAN_MATH static __host__ __device__ __forceinline__
#else
#define FASTGAN_MATH static inline __attribute__((always_inline))
#endif

namespace fastgan {

// The codes by which Python names an activation; they stand again in fastgan/_native.py.
enum class Activation : int { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish, gelu };

// Calls f(std::integral_constant of the activation).
template <typename F>
FASTGAN_MATH void dispatch_activation(Activation kind, F f) {
#define FASTGAN_CASE(name) \
  case Activation::name:   \
    return f(std::integral_constant<Activation, Activation::name>{});
  switch (kind) {
    FASTGAN_CASE(linear)
    FASTGAN_CASE(relu)
    FASTGAN_CASE(lrelu)
    FASTGAN_CASE(tanh)
    FASTGAN_CASE(sigmoid)
    FASTGAN_CASE(elu)
    FASTGAN_CASE(selu)
    FASTGAN_CASE(softplus)
    FASTGAN_CASE(swish)
    FASTGAN_CASE(gelu)
  }
#undef FASTGAN_CASE
}

constexpr double kSeluScale = 1.0507009873554804934193349852946;
constexpr double kSeluAlpha = 1.6732632423543772848170429916717;
// Beyond this z, softplus is z itself, as in torch; and its value there.
constexpr double kSoftplusLinear = 20, kSoftplusLinearValue = 20.000000002061153620;
constexpr double kSqrtHalf = 0.70710678118654752440, kDensityAtZero = 0.39894228040143267794;  // 1 / sqrt(2 pi)

template <typename Math, typename A>
FASTGAN_MATH A sigmoid(A z) {
  return 1 / (1 + Math::exp(-z));
}

// f(z). A NaN stays one.
template <Activation kind, typename Math, typename A>
FASTGAN_MATH A activation(A z, A alpha) {
  if constexpr (kind == Activation::relu) return z <= 0 ? A(0) : z;
  if constexpr (kind == Activation::lrelu) return z > 0 ? z : alpha * z;
  if constexpr (kind == Activation::tanh) return Math::tanh(z);
  if constexpr (kind == Activation::sigmoid) return sigmoid<Math>(z);
  if constexpr (kind == Activation::elu) {
    const A below = Math::expm1(z > 0 ? A(0) : z);
    return z > 0 ? z : below;
  }
  if constexpr (kind == Activation::selu) {
    const A below = A(kSeluScale * kSeluAlpha) * Math::expm1(z > 0 ? A(0) : z);
    return z > 0 ? A(kSeluScale) * z : below;
  }
  if constexpr (kind == Activation::softplus) {
    const A more = Math::log1p(Math::exp(z > 0 ? -z : z));
    return z > A(kSoftplusLinear) ? z : (z > 0 ? z : A(0)) + more;
  }
  if constexpr (kind == Activation::swish) return z * sigmoid<Math>(z);
  if constexpr (kind == Activation::gelu) return A(0.5) * z * (1 + Math::erf(z * A(kSqrtHalf)));
  return z;
}

// f'(z); at 0 as torch has it.
template <Activation kind, typename Math, typename A>
FASTGAN_MATH A slope(A z, A alpha) {
  if constexpr (kind == Activation::relu) return z <= 0 ? A(0) : A(1);
  if constexpr (kind == Activation::lrelu) return z > 0 ? A(1) : alpha;
  if constexpr (kind == Activation::tanh) {
    const A t = Math::tanh(z);
    return 1 - t * t;
  }
  if constexpr (kind == Activation::sigmoid) {
    const A s = sigmoid<Math>(z);
    return s * (1 - s);
  }
  if constexpr (kind == Activation::elu) {
    const A below = Math::exp(z > 0 ? A(0) : z);
    return z > 0 ? A(1) : below;
  }
  if constexpr (kind == Activation::selu) {
    const A below = A(kSeluScale * kSeluAlpha) * Math::exp(z > 0 ? A(0) : z);
    return z > 0 ? A(kSeluScale) : below;
  }
  if constexpr (kind == Activation::softplus) {
    const A s = sigmoid<Math>(z);
    return z > A(kSoftplusLinear) ? A(1) : s;
  }
  if constexpr (kind == Activation::swish) {
    const A s = sigmoid<Math>(z);
    return s + z * (s * (1 - s));
  }
  if constexpr (kind == Activation::gelu) {
    return A(0.5) * (1 + Math::erf(z * A(kSqrtHalf))) + z * (A(kDensityAtZero) * Math::exp(A(-0.5) * z * z));
  }
  return 1;
}

// f'(z) dy; where a piecewise linear f is constant, 0 for any dy, as torch's relu has it.
template <Activation kind, typename Math, typename A>
FASTGAN_MATH A chained(A z, A dy, A alpha) {
  const A s = slope<kind, Math>(z, alpha);
  if constexpr (kind == Activation::relu || kind == Activation::lrelu) return s == 0 ? A(0) : s * dy;
  return s * dy;
}

// f''(z); 0 where f is piecewise linear, and for elu and selu at 0, as torch has it.
template <Activation kind, typename Math, typename A>
FASTGAN_MATH A curvature(A z) {
  if constexpr (kind == Activation::tanh) {
    const A t = Math::tanh(z);
    return -2 * t * (1 - t * t);
  }
  if constexpr (kind == Activation::sigmoid) {
    const A s = sigmoid<Math>(z);
    return s * (1 - s) * (1 - 2 * s);
  }
  if constexpr (kind == Activation::elu || kind == Activation::selu) {
    const A below = Math::exp(z > 0 ? A(0) : z) * A(kind == Activation::selu ? kSeluScale * kSeluAlpha : 1);
    return z < 0 ? below : A(0);
  }
  if constexpr (kind == Activation::softplus) {
    const A s = sigmoid<Math>(z);
    return z > A(kSoftplusLinear) ? A(0) : s * (1 - s);
  }
  if constexpr (kind == Activation::swish) {
    const A s = sigmoid<Math>(z);
    return s * (1 - s) * (2 + z * (1 - 2 * s));
  }
  if constexpr (kind == Activation::gelu) {
    return A(kDensityAtZero) * Math::exp(A(-0.5) * z * z) * (2 - z * z);
  }
  return 0;
}

// f'(z) from v = f(z): for lrelu with alpha >= 0; swish and gelu are not monotonic, their value does not determine it.
template <Activation kind, typename Math, typename A>
FASTGAN_MATH A slope_at_value(A v, A alpha) {
  if constexpr (kind == Activation::relu) return v <= 0 ? A(0) : A(1);
  if constexpr (kind == Activation::lrelu) return v > 0 ? A(1) : alpha;
  if constexpr (kind == Activation::tanh) return 1 - v * v;
  if constexpr (kind == Activation::sigmoid) return v * (1 - v);
  if constexpr (kind == Activation::elu) return v > 0 ? A(1) : v + 1;
  if constexpr (kind == Activation::selu) return v > 0 ? A(kSeluScale) : v + A(kSeluScale * kSeluAlpha);
  if constexpr (kind == Activation::softplus) {
    const A below = -Math::expm1(-v);
    return v > A(kSoftplusLinearValue) ? A(1) : below;
  }
  return 1;
}

// The derivative of that with respect to v.
template <Activation kind, typename Math, typename A>
FASTGAN_MATH A curvature_at_value(A v) {
  if constexpr (kind == Activation::tanh) return -2 * v;
  if constexpr (kind == Activation::sigmoid) return 1 - 2 * v;
  if constexpr (kind == Activation::elu || kind == Activation::selu) return v < 0 ? A(1) : A(0);
  if constexpr (kind == Activation::softplus) {
    const A below = Math::exp(-v);
    return v > A(kSoftplusLinearValue) ? A(0) : below;
  }
  return 0;
}

}  // namespace fastgan
