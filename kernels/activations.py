"""Activations in Triton: f(z), f'(z), f''(z), and the derivatives from v = f(z); see fastgan.reference.activations.

ACT is the activation's name, a constant. Values are float32 or float64.
"""

import triton
import triton.language as tl

from fastgan.kernels.grouped import div

_SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
_SELU_BELOW = tl.constexpr(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717)
_SOFTPLUS_LINEAR = tl.constexpr(20.0)
_SOFTPLUS_LINEAR_VALUE = tl.constexpr(20.000000002061153620)
_SQRT_HALF = tl.constexpr(0.70710678118654752440)
_DENSITY_AT_ZERO = tl.constexpr(0.39894228040143267794)


@triton.jit
def expm1(x):
    """exp(x) - 1: the series near 0, where the difference cancels; for x <= 80."""
    TERMS: tl.constexpr = 16 if x.dtype.is_fp64() else 9
    near = tl.where(tl.abs(x) < 0.5, x, 0.0)
    series = tl.full(x.shape, 1, x.dtype)
    for i in tl.static_range(TERMS - 1):
        series = series * near * (1.0 / (TERMS - i)) + 1.0
    return tl.where(tl.abs(x) < 0.5, series * near, tl.exp(x) - 1.0)


@triton.jit
def log1p(u):
    """log(1 + u) for 0 <= u <= 1, as 2 artanh(u / (2 + u))."""
    TERMS: tl.constexpr = 17 if u.dtype.is_fp64() else 8
    s = div(u, 2.0 + u)
    square = s * s
    series = tl.full(s.shape, 2.0 / (2 * TERMS - 1), s.dtype)
    for i in tl.static_range(TERMS - 1):
        series = series * square + 2.0 / (2 * (TERMS - 1 - i) - 1)
    return s * series


@triton.jit
def tanh(z):
    """Hyperbolic tangent; a NaN stays one."""
    size = tl.abs(z)
    e = expm1(tl.where(size > 20.0, 40.0, 2.0 * size))
    t = div(e, e + 2.0)
    return tl.where(z < 0, -t, t)


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z))."""
    return div(tl.full(z.shape, 1, z.dtype), 1.0 + tl.exp(-z))


@triton.jit
def density(z):
    """The density of the normal distribution."""
    return _DENSITY_AT_ZERO * tl.exp(-0.5 * z * z)


@triton.jit
def value(z, alpha, ACT: tl.constexpr):
    """f(z)."""
    if ACT == "relu":
        z = tl.where(z <= 0, 0.0, z)
    elif ACT == "lrelu":
        z = tl.where(z > 0, z, alpha * z)
    elif ACT == "tanh":
        z = tanh(z)
    elif ACT == "sigmoid":
        z = sigmoid(z)
    elif ACT == "elu":
        z = tl.where(z > 0, z, expm1(tl.where(z > 0, 0.0, z)))
    elif ACT == "selu":
        z = tl.where(z > 0, _SELU_SCALE * z, _SELU_BELOW * expm1(tl.where(z > 0, 0.0, z)))
    elif ACT == "softplus":
        more = log1p(tl.exp(tl.where(z > 0, -z, z)))
        z = tl.where(z > _SOFTPLUS_LINEAR, z, tl.where(z > 0, z, 0.0) + more)
    elif ACT == "swish":
        z = z * sigmoid(z)
    elif ACT == "gelu":
        z = 0.5 * z * (1.0 + tl.erf(z * _SQRT_HALF))
    return z


@triton.jit
def slope(z, alpha, ACT: tl.constexpr):
    """f'(z)."""
    one = tl.full(z.shape, 1, z.dtype)
    if ACT == "relu":
        s = tl.where(z <= 0, 0.0, one)
    elif ACT == "lrelu":
        s = tl.where(z > 0, one, alpha * one)
    elif ACT == "tanh":
        s = tanh(z)
        s = 1.0 - s * s
    elif ACT == "sigmoid":
        s = sigmoid(z)
        s = s * (1.0 - s)
    elif ACT == "elu":
        s = tl.where(z > 0, 1.0, tl.exp(tl.where(z > 0, 0.0, z)))
    elif ACT == "selu":
        s = tl.where(z > 0, _SELU_SCALE * one, _SELU_BELOW * tl.exp(tl.where(z > 0, 0.0, z)))
    elif ACT == "softplus":
        s = tl.where(z > _SOFTPLUS_LINEAR, 1.0, sigmoid(z))
    elif ACT == "swish":
        s = sigmoid(z)
        s = s + z * (s * (1.0 - s))
    elif ACT == "gelu":
        s = 0.5 * (1.0 + tl.erf(z * _SQRT_HALF)) + z * density(z)
    else:
        s = one
    return s


@triton.jit
def curvature(z, ACT: tl.constexpr):
    """f''(z)."""
    if ACT == "tanh":
        c = tanh(z)
        c = -2.0 * c * (1.0 - c * c)
    elif ACT == "sigmoid":
        c = sigmoid(z)
        c = c * (1.0 - c) * (1.0 - 2.0 * c)
    elif ACT == "elu":
        c = tl.where(z < 0, tl.exp(tl.where(z > 0, 0.0, z)), 0.0)
    elif ACT == "selu":
        c = tl.where(z < 0, _SELU_BELOW * tl.exp(tl.where(z > 0, 0.0, z)), 0.0)
    elif ACT == "softplus":
        c = sigmoid(z)
        c = tl.where(z > _SOFTPLUS_LINEAR, 0.0, c * (1.0 - c))
    elif ACT == "swish":
        c = sigmoid(z)
        c = c * (1.0 - c) * (2.0 + z * (1.0 - 2.0 * c))
    elif ACT == "gelu":
        c = density(z) * (2.0 - z * z)
    else:
        c = tl.full(z.shape, 0, z.dtype)
    return c


@triton.jit
def chained(z, dy, alpha, ACT: tl.constexpr):
    """f'(z) dy; where a piecewise linear f is constant, 0 for any dy."""
    s = slope(z, alpha, ACT)
    if ACT == "relu" or ACT == "lrelu":
        return tl.where(s == 0, 0.0, s * dy)
    return s * dy


@triton.jit
def slope_at_value(v, alpha, ACT: tl.constexpr):
    """f'(z) where f(z) = v."""
    one = tl.full(v.shape, 1, v.dtype)
    if ACT == "relu":
        s = tl.where(v <= 0, 0.0, one)
    elif ACT == "lrelu":
        s = tl.where(v > 0, one, alpha * one)
    elif ACT == "tanh":
        s = 1.0 - v * v
    elif ACT == "sigmoid":
        s = v * (1.0 - v)
    elif ACT == "elu":
        s = tl.where(v > 0, 1.0, v + 1.0)
    elif ACT == "selu":
        s = tl.where(v > 0, _SELU_SCALE * one, v + _SELU_BELOW)
    elif ACT == "softplus":
        s = tl.where(v > _SOFTPLUS_LINEAR_VALUE, 1.0, -expm1(-v))
    else:
        s = one
    return s


@triton.jit
def curvature_at_value(v, ACT: tl.constexpr):
    """The derivative of `slope_at_value` with respect to v."""
    if ACT == "tanh":
        c = -2.0 * v
    elif ACT == "sigmoid":
        c = 1.0 - 2.0 * v
    elif ACT == "elu" or ACT == "selu":
        c = tl.where(v < 0, tl.full(v.shape, 1, v.dtype), 0.0)
    elif ACT == "softplus":
        c = tl.where(v > _SOFTPLUS_LINEAR_VALUE, 0.0, tl.exp(-v))
    else:
        c = tl.full(v.shape, 0, v.dtype)
    return c
