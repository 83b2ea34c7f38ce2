"""`torch_utils.ops` of the StyleGAN family: StyleGAN2-ADA, StyleGAN3 and the codebases that carry the same package.

Functions are replaced by name, whatever implementation they were asked for: no plugin is compiled. Where a pickle needs
the modules and no checkout is on the path, ours stand in. filtered_lrelu is not ours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from fastgan import functional
from fastgan.compat.grid_sample import grid_sample
from fastgan.compat.patching import Family
from fastgan.reference.activations import FACTS


def _ours(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of ours that takes, and does without, the name of an implementation as its last argument."""
    most = len(signature(function).parameters)

    @wraps(function)
    def call(*args: Any, impl: str = "cuda", **options: Any) -> Tensor:
        return function(*args[:most], **options)

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

    __getattr__ = dict.__getitem__


_OPS = "torch_utils.ops"
_BIAS_ACT = {"bias_act": _ours(functional.bias_act)}
_UPFIRDN2D = {
    "setup_filter": functional.setup_filter,
    "upfirdn2d": _ours(functional.upfirdn2d),
    "filter2d": _ours(functional.filter2d),
    "upsample2d": _ours(functional.upsample2d),
    "downsample2d": _ours(functional.downsample2d),
}
GRADFIX = {
    "conv2d": functional.conv2d,
    "conv_transpose2d": functional.conv_transpose2d,
    "no_weight_gradients": no_weight_gradients,
}
_FUNCTIONS: dict[str, dict[str, Any]] = {
    f"{_OPS}.bias_act": _BIAS_ACT,
    f"{_OPS}.upfirdn2d": _UPFIRDN2D,
    f"{_OPS}.conv2d_gradfix": GRADFIX,
    f"{_OPS}.grid_sample_gradfix": {"grid_sample": grid_sample},
    f"{_OPS}.fma": {"fma": fma},
    "training.networks": {"modulated_conv2d": modulated_conv2d},  # where StyleGAN2-ADA has it, and where others do
    "training.networks_stylegan2": {"modulated_conv2d": modulated_conv2d},
}
_FACTS = {name: _ActivationFacts(def_alpha=facts.alpha, def_gain=facts.gain) for name, facts in FACTS.items()}
_STAND_INS: dict[str, dict[str, Any]] = {
    "torch_utils": {},
    _OPS: {},
    f"{_OPS}.bias_act": _BIAS_ACT | {"activation_funcs": _FACTS},
    f"{_OPS}.upfirdn2d": _UPFIRDN2D,
    f"{_OPS}.conv2d_gradfix": GRADFIX | {"enabled": False, "weight_gradients_disabled": False},
    f"{_OPS}.conv2d_resample": {"conv2d_resample": conv2d_resample},
    f"{_OPS}.grid_sample_gradfix": {"grid_sample": grid_sample, "enabled": False},
    f"{_OPS}.fma": {"fma": fma},
}
FAMILY = Family(
    summary="torch_utils.ops: bias_act, upfirdn2d, conv2d_gradfix, grid_sample_gradfix, fma; and modulated_conv2d",
    functions=_FUNCTIONS,
    stand_ins=_STAND_INS,
    optional=tuple(_STAND_INS),
    left={
        f"{_OPS}.conv2d_resample.conv2d_resample": "it calls the functions above",
        f"{_OPS}.filtered_lrelu.filtered_lrelu": "not an op of fastgan yet",
    },
)
