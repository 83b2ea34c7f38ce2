"""FIR resampling in compiled code: csrc/cpu/upfirdn2d.cpp and csrc/cuda/upfirdn2d.cu."""

from math import nan

from torch import Tensor

from fastgan import _native, filters


def forward(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
    channels_last: bool | None = None,
) -> Tensor:
    """See `fastgan.reference.upfirdn2d.forward`; x is contiguous or channels_last, f contiguous."""
    return _launch(x, f, up, down, padding, flip_filter, gain, channels_last, None, False)


def forward_bias_act(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
    b: Tensor | None,
    act: str,
    alpha: float,
    act_gain: float,
    clamp: float | None,
    channels_last: bool | None = None,
) -> Tensor:
    """See `fastgan.reference.upfirdn2d.forward_bias_act`; the same, and b in the dtype that is computed in."""
    return _launch(x, f, up, down, padding, flip_filter, gain, channels_last, b, True, act, alpha, act_gain, clamp)


def _launch(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
    channels_last: bool | None,
    b: Tensor | None,
    activated: bool,
    act: str = "linear",
    alpha: float = 0,
    act_gain: float = 1,
    clamp: float | None = None,
) -> Tensor:
    rows, columns = filters.axes(x, f, up, down, padding)
    inside = filters.channels_inside(x)
    wanted = inside if channels_last is None else channels_last
    # The kernel for CPUs reads one order and writes the other in the same pass.
    turned = wanted != inside and _native.query("upfirdn2d_turns", x.device)
    order = _ORDERS[inside, wanted if turned else inside]
    y = filters.empty_output(x, rows, columns, wanted if order else inside)
    fy, fx = filters.separate(f, x.dtype) or (f, None)
    planes, inner = (x.shape[0] * x.shape[1], 1) if order else filters.planes_and_inner(x)
    if y.numel():
        sizes = planes, inner, rows, columns
        after = activated, b, x.shape[1], act, alpha, act_gain, nan if clamp is None else clamp
        _native.launch("upfirdn2d", x.device, x, y, fy, fx, *sizes, flip_filter, gain, x.dtype, order, *after)
    return y if channels_last is None else y.contiguous(memory_format=filters.memory_format(wanted))


# The codes of `enum class Order` in csrc/upfirdn2d.h, by whether x and y have their channels side by side.
_ORDERS = {(False, False): 0, (True, True): 0, (False, True): 1, (True, False): 2}
