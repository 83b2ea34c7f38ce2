"""FIR resampling in compiled code: csrc/cpu/upfirdn2d.cpp and csrc/cuda/upfirdn2d.cu."""

from collections.abc import Sequence
from math import nan

from torch import Tensor

from fastgan import _native, filters, memory
from fastgan.filters import Resampling


def forward(x: Tensor, f: Tensor, how: Resampling) -> Tensor:
    """See `fastgan.reference.upfirdn2d.forward`; x is contiguous or channels_last, f contiguous."""
    return _launch(x, f, None, how, False)


def forward_bias_act(x: Tensor, f: Tensor, b: Tensor | None, how: Resampling, activation: Sequence) -> Tensor:
    """See `fastgan.reference.upfirdn2d.forward_bias_act`; the same, and b in the dtype that is computed in."""
    return _launch(x, f, b, how, True, *activation)


def _launch(
    x: Tensor,
    f: Tensor,
    b: Tensor | None,
    how: Resampling,
    activated: bool,
    act: str = "linear",
    alpha: float = 0,
    act_gain: float = 1,
    clamp: float | None = None,
) -> Tensor:
    up, down, padding, flip_filter, gain, channels_last = how
    inside = filters.channels_inside(x)
    written = filters.output_inside(x, channels_last)
    # The kernel for CPUs reads one order and writes the other in the same pass.
    if written != inside and x.numel() and not _native.query("upfirdn2d_turns", x.device):
        written = inside
    plan = filters.plan(x.shape, f.shape, tuple(up), tuple(down), tuple(padding), inside, written)
    y = memory.empty_strided(plan.shape, plan.strides, x.dtype, x.device)
    if y.numel():
        fy, fx = filters.separate(f, x.dtype) or (f, None)
        after = activated, b, x.shape[1], act, alpha, act_gain, nan if clamp is None else clamp
        sizes = plan.planes, plan.inner, plan.rows, plan.columns
        order = _ORDERS[inside, written]
        _native.launch("upfirdn2d", x.device, x, y, fy, fx, *sizes, flip_filter, gain, x.dtype, order, *after)
    return y if channels_last is None else y.contiguous(memory_format=filters.memory_format(channels_last))


# The codes of `enum class Order` in csrc/upfirdn2d.h, by whether x and y have their channels side by side.
_ORDERS = {(False, False): 0, (True, True): 0, (False, True): 1, (True, False): 2}
