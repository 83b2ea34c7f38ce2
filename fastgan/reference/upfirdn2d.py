"""Resampling in plain torch, as the formula says it: insert zeros, pad or crop, convolve, drop. The definition."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from fastgan.filters import Resampling
from fastgan.reference import bias_act


def forward(x: Tensor, f: Tensor, how: Resampling) -> Tensor:
    """Resample x [N, C, H, W] by f [fh, fw], or by f [k] along both axes; computed in float32 or better."""
    up, down, padding, flip_filter, gain, channels_last = how
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    n, c, h, w = x.shape
    y = x.to(exact).reshape(n * c, 1, h, 1, w, 1)
    y = pad(y, [0, up[0] - 1, 0, 0, 0, up[1] - 1]).reshape(n * c, 1, h * up[1], w * up[0])
    y = pad(y, [max(p, 0) for p in padding])
    x0, x1, y0, y1 = (max(-p, 0) for p in padding)
    y = y[:, :, y0 : y.shape[2] - y1, x0 : y.shape[3] - x1]
    taps = f.to(exact) if flip_filter else f.to(exact).flip(list(range(f.ndim)))
    with torch.autocast(x.device.type, enabled=False):
        if f.ndim == 2:
            y = conv2d(y, taps[None, None], stride=(down[1], down[0]))
        else:
            y = conv2d(y, taps[None, None, :, None], stride=(down[1], 1))
            y = conv2d(y, taps[None, None, None, :], stride=(1, down[0]))
    inside = channels_last
    if inside is None:
        inside = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    y = (y * gain).to(x.dtype).reshape(n, c, y.shape[2], y.shape[3])
    return y.contiguous(memory_format=torch.channels_last if inside else torch.contiguous_format)


def forward_bias_act(x: Tensor, f: Tensor, b: Tensor | None, how: Resampling, activation: Sequence) -> Tensor:
    """Return clamp(act_gain f(z + b)), where z is the resampled x before it is rounded; b [C]."""
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    act, alpha, act_gain, clamp = activation
    y = bias_act.forward(forward(x.to(exact), f, how), b, 1, act, alpha, act_gain, None).to(x.dtype)
    return y if clamp is None else bias_act.forward(y, None, 1, "linear", 0, 1, clamp)
