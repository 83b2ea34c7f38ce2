"""`torch_utils.ops` of the StyleGAN family: StyleGAN2-ADA, StyleGAN3 and the codebases that carry the same package.

Functions are replaced whatever implementation they are asked for: no plugin is compiled. Where a pickle needs the
modules and no checkout is on the path, ours stand in. filtered_lrelu is not ours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from inspect import Parameter, signature
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastgan import functional
from fastgan.compat.comparison import Call, Ours
from fastgan.compat.grid_sample import grid_sample
from fastgan.compat.patching import Family
from fastgan.reference.activations import FACTS


def _ours(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of ours that takes, and does without, the name of an implementation as its last argument."""
    own = signature(function)
    # What only ours has goes by keyword: theirs ends before.
    theirs = [parameter for parameter in own.parameters.values() if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]
    most = len(theirs)

    @wraps(function)
    def call(*args: Any, impl: str = "cuda", **options: Any) -> Tensor:
        return function(*args[:most], **options)

    impl = Parameter("impl", Parameter.POSITIONAL_OR_KEYWORD, default="cuda")
    call.__signature__ = own.replace(parameters=[*theirs, impl])
    return call


@contextmanager
def no_weight_gradients(disable: bool = True) -> Iterator[None]:
    """Nothing to do: autograd computes the gradients that it is asked for, and a penalty asks for those of images."""
    yield


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c in one pass."""
    return torch.addcmul(c, a, b)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Upsample by zeros and a filter, convolve, filter and downsample; padding is of the upsampled image.

    flip_weight is True for a correlation, as torch's convolutions are.
    """
    if not flip_weight:
        w = w.flip(2, 3)
    if f is not None and isinstance(padding, int) and not flip_filter and min(up, down) == 1 < max(up, down):
        resample = functional.upsample_conv2d if up > 1 else functional.conv_downsample2d
        return resample(x, w, scale_factor=max(up, down), mode="fir", fir=f, padding=padding, groups=groups)
    width, height = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    left, right, top, bottom = _four(padding)
    if up > 1:
        left, top = left + (width + up - 1) // 2, top + (height + up - 1) // 2
        right, bottom = right + (width - up) // 2, bottom + (height - up) // 2
    if down > 1:
        left, top = left + (width - down + 1) // 2, top + (height - down + 1) // 2
        right, bottom = right + (width - down) // 2, bottom + (height - down) // 2
    around = [left, right, top, bottom]
    if up == down == 1 and left == right >= 0 and top == bottom >= 0:
        return functional.conv2d(x, w, padding=(top, left), groups=groups)
    y = functional.upfirdn2d(x, f if up > 1 else None, up, 1, around, flip_filter, up**2)
    y = functional.conv2d(y, w, groups=groups)
    return functional.upfirdn2d(y, f, 1, down, 0, flip_filter) if down > 1 else y


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
) -> Tensor:
    """StyleGAN2's convolution of x [N, I, H, W] with weight [O, I, k, k] times styles [N, I], each output demodulated.

    A weight for every sample is never formed: styles scale what comes in, demodulation what goes out, whatever
    `fused_modconv` says. Source: T. Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, B.
    """
    if demodulate and x.dtype == torch.float16:
        # Demodulation undoes both; without them the convolution may overflow.
        weight = weight / (weight.abs().amax((1, 2, 3), keepdim=True) * weight[0].numel() ** 0.5)
        styles = styles / styles.abs().amax(1, keepdim=True)
    x = x * styles.to(x.dtype)[:, :, None, None]
    x = conv2d_resample(x, weight.to(x.dtype), resample_filter, up, down, padding, flip_weight=flip_weight)
    noise = None if noise is None else noise.to(x.dtype)
    if not demodulate:
        return x if noise is None else x + noise
    # For every sample and output, the norm of its weights.
    squares = styles.square() @ weight.square().sum((2, 3)).t()
    scale = (squares + 1e-8).rsqrt().to(x.dtype)[:, :, None, None]
    return x * scale if noise is None else torch.addcmul(noise, x, scale)


def _four(padding: int | Sequence[int]) -> list[int]:
    padding = [padding] * 2 if isinstance(padding, int) else list(padding)
    return [padding[0], padding[0], padding[1], padding[1]] if len(padding) == 2 else padding


class _ActivationFacts(dict):
    """What codebases read of an activation, by key or as an attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def conv2d(
    input: Tensor,  # noqa: A002  the codebases' name
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`fastgan.functional.conv2d`, with the arguments of gradfix."""
    return functional.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """`fastgan.functional.conv_transpose2d`, with the arguments of gradfix."""
    return functional.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


# --- what is compared ---


def _values(*shape: int) -> Tensor:
    """None of them is zero, and no row is like another."""
    values = torch.linspace(-2, 2.1, torch.Size(shape).numel(), dtype=torch.float64).sin() * 2
    return values.view(shape).requires_grad_()


_X, _B, _W = _values(2, 3, 6, 5), _values(3), _values(4, 3, 3, 3)
_F1 = torch.tensor([1.0, 3, 2, -1]) / 4
_F2 = torch.tensor([[1.0, 2, -3, 1], [0.5, 1, 2, 4], [3, 1, -1, 2]]) / 8


def _activations(module: ModuleType) -> list[Call]:
    """Of every activation that the module has."""
    names = list(getattr(module, "activation_funcs", FACTS))
    others = [
        {"act": "lrelu", "alpha": 0.25, "gain": 1.5, "clamp": 0.75},
        {"act": "linear", "gain": 2, "clamp": 1},
        {"act": "lrelu", "dim": 0, "b": _B},
        {"dim": 3, "b": _B},
    ]
    x = _values(3, 3, 3, 3)  # sizes with which no rule can raise
    calls = [Call([x, _B], {"act": name}) for name in names]
    return calls + [Call([x], options) for options in others] + [Call([x[0, 0], _B]), Call([x])]


def _resampling(*options: dict[str, Any]) -> list[Call]:
    return [Call([_X, f], o) for f in (_F1, _F2) for o in options]


_FLIPPED = {"padding": [2, 1, 3, 0], "flip_filter": True, "gain": 4}
_SETUP = [
    Call([f], options)
    for f in ([1, 3, 3, 1], [[1, 2], [3, 5]], [1, 2, 3, 4, 4, 3, 2, 2], 2)
    for options in ({}, {"normalize": False, "flip_filter": True, "gain": 2})
]
_STYLED = partial(Call, [_X, _W, _values(2, 3)])
_FIR = {"resample_filter": torch.outer(_F1, _F1)}
_MODULATED = [
    _STYLED({"padding": 1}),
    _STYLED({"padding": 1, "demodulate": False}),
    _STYLED({"padding": 1, "fused_modconv": False, "noise": _values(2, 1, 6, 5)}),
    _STYLED({"padding": 1, "noise": _values(2, 1, 6, 5), "flip_weight": False}),
    _STYLED({"padding": 1, "up": 2, "flip_weight": False, **_FIR}),
    _STYLED({"padding": 1, "down": 2, **_FIR}),
]


def _entered(context: Any) -> None:
    with context:
        pass


# --- the family ---

_OPS = "torch_utils.ops"
_BIAS_ACT = _ours(functional.bias_act)
_FIRS = {name: _ours(getattr(functional, name)) for name in ("upfirdn2d", "filter2d", "upsample2d", "downsample2d")}
_FIR_CALLS = {
    "upfirdn2d": [
        *_resampling({}, {"up": 2, **_FLIPPED}, {"down": [2, 1], "padding": 1}, {"padding": [-1, 0, 2, -1]}),
        Call([_X, None], {"up": [1, 2]}),
        Call([_X, _F2], {"up": [2, 3], "gain": 3}),
    ],
    "filter2d": _resampling({}, {"padding": [1, 0]}, _FLIPPED),
    "upsample2d": _resampling({}, {"up": 4, "padding": [1, 0]}, _FLIPPED),
    "downsample2d": _resampling({}, {"down": [1, 2], "padding": [1, 0]}, _FLIPPED),
}
GRADFIX = {
    "conv2d": Ours(
        {"": conv2d},
        [
            Call([_X, _W]),
            Call([_X, _W, _values(4)], {"stride": 2, "padding": [1, 2], "dilation": [1, 2]}),
            Call([_X, _values(6, 1, 3, 3)], {"groups": 3}),
        ],
    ),
    "conv_transpose2d": Ours(
        {"": conv_transpose2d},
        [
            Call([_X, _values(3, 2, 3, 3)]),
            Call([_X, _values(3, 2, 3, 3), _values(2)], {"stride": 2, "padding": [1, 0], "output_padding": [0, 1]}),
            Call([_X, _values(3, 2, 3, 3)], {"groups": 3, "dilation": 2}),
        ],
    ),
    "no_weight_gradients": Ours({"": no_weight_gradients}, [Call(then=_entered)]),
}
_GRID = (_values(2, 4, 3, 2) / 1.8).detach()
_MODULATED_CONV2D = {"modulated_conv2d": Ours({"": modulated_conv2d}, _MODULATED)}
_FUNCTIONS = {
    f"{_OPS}.bias_act": {"bias_act": Ours({"": _BIAS_ACT}, _activations)},
    f"{_OPS}.upfirdn2d": {
        "setup_filter": Ours({"": functional.setup_filter}, _SETUP),
        **{name: Ours({"": function}, _FIR_CALLS[name]) for name, function in _FIRS.items()},
    },
    f"{_OPS}.conv2d_gradfix": GRADFIX,
    f"{_OPS}.grid_sample_gradfix": {"grid_sample": Ours({"": grid_sample}, [Call([_X, _GRID])])},
    f"{_OPS}.fma": {"fma": Ours({"": fma}, [Call([_X, _values(2, 3, 1, 1), _values(2, 1, 6, 5)])])},
    # Where StyleGAN2-ADA has it, and where others do.
    "training.networks": _MODULATED_CONV2D,
    "training.networks_stylegan2": _MODULATED_CONV2D,
    "pg_modules.networks_stylegan2": _MODULATED_CONV2D,
    "networks.generator": _MODULATED_CONV2D,
}
_FACTS = {name: _ActivationFacts(def_alpha=facts.alpha, def_gain=facts.gain) for name, facts in FACTS.items()}
GRADFIX_STAND_IN = {
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "no_weight_gradients": no_weight_gradients,
    "enabled": False,
    "weight_gradients_disabled": False,
}
FAMILY = Family(
    summary="torch_utils.ops: bias_act, upfirdn2d, conv2d_gradfix, grid_sample_gradfix, fma; and modulated_conv2d",
    functions=_FUNCTIONS,
    stand_ins={
        "torch_utils": {},
        _OPS: {},
        f"{_OPS}.bias_act": {"bias_act": _BIAS_ACT, "activation_funcs": _FACTS},
        f"{_OPS}.upfirdn2d": {"setup_filter": functional.setup_filter, **_FIRS},
        f"{_OPS}.conv2d_gradfix": GRADFIX_STAND_IN,
        f"{_OPS}.conv2d_resample": {"conv2d_resample": conv2d_resample},
        f"{_OPS}.grid_sample_gradfix": {"grid_sample": grid_sample, "enabled": False},
        f"{_OPS}.fma": {"fma": fma},
    },
    left={
        f"{_OPS}.conv2d_resample.conv2d_resample": "what it calls of the functions above is ours",
        f"{_OPS}.filtered_lrelu.filtered_lrelu": "not an op of fastgan yet",
    },
)
