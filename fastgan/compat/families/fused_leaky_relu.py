"""What the `op` packages of rosinality's StyleGAN2 and of BasicSR offer: the same functions with other arguments.

Forks have rules of their own: one adds the bias along the last dimension of an input of three, one has a fixed slope on
a CPU, one reads two values of pad and no more.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fastgan import filters, functional
from fastgan.compat.comparison import Call, Ours, parameters

Size = int | Sequence[int]
SLOPE, SCALE = 0.2, 2**0.5


def fused_leaky_relu(
    input: Tensor,  # noqa: A002  the codebases' name
    bias: Tensor | None = None,
    negative_slope: float = SLOPE,
    scale: float = SCALE,
) -> Tensor:
    """scale * leaky_relu(input + bias), with a bias for every channel of dimension 1."""
    return functional.bias_act(input, bias, act="lrelu", alpha=negative_slope, gain=scale)


def last_of_three(
    input: Tensor,  # noqa: A002
    bias: Tensor | None = None,
    negative_slope: float = SLOPE,
    scale: float = SCALE,
) -> Tensor:
    """The same, but in an input of three dimensions [N, L, C] the last one has the channels."""
    dim = 2 if input.ndim == 3 else 1
    return functional.bias_act(input, bias, dim, "lrelu", negative_slope, scale)


def _fixed_slope(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(
        input: Tensor,  # noqa: A002
        bias: Tensor | None = None,
        negative_slope: float = SLOPE,
        scale: float = SCALE,
    ) -> Tensor:
        return function(input, bias, SLOPE, scale)

    return call


class FusedLeakyReLU(nn.Module):
    """`fused_leaky_relu` with a parameter `bias` [channel]."""

    def __init__(self, channel: int, bias: bool = True, negative_slope: float = SLOPE, scale: float = SCALE):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[N, channel, ...] -> the same."""
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)


def _forward(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(self: nn.Module, input: Tensor) -> Tensor:  # noqa: A002
        return function(input, self.bias, self.negative_slope, self.scale)

    return forward


def upfirdn2d(
    input: Tensor,  # noqa: A002
    kernel: Tensor,
    up: Size = 1,
    down: Size = 1,
    pad: Sequence[int] = (0, 0),
) -> Tensor:
    """`fastgan.functional.upfirdn2d` with a kernel [kh, kw]; pad (p0, p1) is of both axes, or (x0, x1, y0, y1)."""
    padding = [*pad, *pad] if len(pad) == 2 else list(pad)
    return functional.upfirdn2d(input, filters.float32(kernel), up, down, padding)


def _two_of_pad(
    input: Tensor,  # noqa: A002
    kernel: Tensor,
    up: Size = 1,
    down: Size = 1,
    pad: Sequence[int] = (0, 0),
) -> Tensor:
    return upfirdn2d(input, kernel, up, down, pad[:2])


# --- plugins ---


def fused_bias_act(
    input: Tensor,  # noqa: A002  the codebase's name
    bias: Tensor,
    refer: Tensor,
    act: int,
    grad: int,
    alpha: float,
    scale: float,
) -> Tensor:
    """The extension's entry: scale * leaky_relu(input + bias), or its gradient, refer being the result; 3 is lrelu."""
    if act != 3 or grad not in (0, 1):
        raise NotImplementedError(f"fused_bias_act: act must be 3 and grad 0 or 1, got act {act} and grad {grad}")
    bias = bias if bias.numel() else None
    if grad == 0:
        return functional.bias_act(input, bias, act="lrelu", alpha=alpha, gain=scale)
    input = input if bias is None else input + bias.view(1, -1, *[1] * (input.ndim - 2))  # noqa: A001
    return input * scale * (refer > 0).to(input.dtype).add_((refer <= 0).to(input.dtype), alpha=alpha)


def upfirdn2d_ext(
    input: Tensor,  # noqa: A002
    kernel: Tensor,
    up_x: int,
    up_y: int,
    down_x: int,
    down_y: int,
    pad_x0: int,
    pad_x1: int,
    pad_y0: int,
    pad_y1: int,
) -> Tensor:
    """The extension's entry, of images [N, H, W, 1]."""
    around = [pad_x0, pad_x1, pad_y0, pad_y1]
    y = functional.upfirdn2d(input.movedim(-1, 1), filters.float32(kernel), [up_x, up_y], [down_x, down_y], around)
    return y.movedim(1, -1)


# --- what is compared ---


def _values(*shape: int) -> Tensor:
    """None of them is zero."""
    values = torch.linspace(-2, 2.1, torch.Size(shape).numel(), dtype=torch.float64).sin() * 2
    return values.view(shape).requires_grad_()


_BIAS = _values(3)
# Sizes with which no rule can raise; large values, which a fork may clamp.
_INPUTS = [*(_values(*[3] * ndim) for ndim in (4, 3, 2)), _values(3, 3, 3, 3) * 1000]
_OTHER = {"negative_slope": 0.25, "scale": 1.5}


def _layers(cls: type) -> list[Call]:
    """A layer's forward."""
    known = parameters(cls)
    options = [{}, {name: value for name, value in _OTHER.items() if name in known}, {"bias": False}]
    layers = [cls(3, **option) for option in options if set(option) <= set(known)]
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.copy_(_values(*parameter.shape))
    return [Call([layer.double(), x]) for layer in layers for x in _INPUTS]


_LAST, _FIXED = "the bias is of the last of three dimensions", "on a CPU negative_slope is 0.2, whatever is passed"
_RULES = {
    "": fused_leaky_relu,
    _LAST: last_of_three,
    _FIXED: _fixed_slope(fused_leaky_relu),
    f"{_LAST}, {_FIXED}": _fixed_slope(last_of_three),
}
_KERNEL = torch.tensor([[1.0, 2, -3, 1], [0.5, 1, 2, 4], [3, 1, -1, 2]], dtype=torch.float64) / 8
_RESAMPLE = partial(Call, [_values(2, 3, 4, 5), _KERNEL])

# A layer first: it is compared by what its own module has, before that is replaced.
FUSED_ACT = {
    "FusedLeakyReLU.forward": Ours({rule: _forward(function) for rule, function in _RULES.items()}, _layers, True),
    "fused_leaky_relu": Ours(
        _RULES, [Call([x, *bias], o) for x in _INPUTS for bias in ([_BIAS], []) for o in ({}, _OTHER)], True
    ),
}
UPFIRDN2D = {
    "upfirdn2d": Ours(
        {"": upfirdn2d, "two values of pad are read": _two_of_pad},
        [
            _RESAMPLE({}),
            _RESAMPLE({"up": 2, "pad": (2, 1)}),
            _RESAMPLE({"down": 2, "pad": (1, 3)}),
            _RESAMPLE({"up": 2, "down": 3, "pad": (4, -1)}),
            _RESAMPLE({"pad": (1, 2, 0, 3)}),
        ],
        True,
    )
}
