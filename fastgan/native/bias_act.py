"""Bias, activation, gain and clamp in compiled code: csrc/cpu/bias_act.cpp and csrc/cuda/bias_act.cu."""

from math import nan
from typing import Any

from torch import Tensor

from fastgan import _native, memory
from fastgan.ops.layout import along

# The codes of `enum class BiasActPart` in csrc/bias_act.h.
_VALUE, _SLOPE, _SLOPE_AT_VALUE, _CURVATURE, _CURVATURE_AT_VALUE = range(5)


def forward(x: Tensor, b: Tensor | None, *spec: Any) -> Tensor:
    """See `fastgan.reference.bias_act.forward`; x is dense, b contiguous and in the dtype that is computed in."""
    return _launch(_VALUE, x, b, None, None, *spec)


def gradient(dy: Tensor, saved: Tensor | None, b: Tensor | None, at_value: bool, *spec: Any) -> Tensor:
    """See `fastgan.reference.bias_act.gradient`; all but b have one memory layout, as in `forward`."""
    # Where nothing is saved nothing depends on it: dy is as good as anything.
    return _launch(_SLOPE_AT_VALUE if at_value else _SLOPE, dy if saved is None else saved, b, dy, None, *spec)


def second(ddx: Tensor, dy: Tensor, saved: Tensor, b: Tensor | None, at_value: bool, *spec: Any) -> Tensor:
    """See `fastgan.reference.bias_act.second`; all but b have one memory layout, as in `forward`."""
    return _launch(_CURVATURE_AT_VALUE if at_value else _CURVATURE, saved, b, dy, ddx, *spec)


def _launch(
    part: int,
    x: Tensor,
    b: Tensor | None,
    dy: Tensor | None,
    ddx: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    out = memory.empty_like(x, x.dtype)
    limit = nan if clamp is None else clamp
    _native.launch("bias_act", x.device, x, b, dy, ddx, out, *along(x, dim), act, part, alpha, gain, limit, x.dtype)
    return out
