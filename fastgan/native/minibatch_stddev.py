"""Minibatch standard deviation in compiled code: csrc/cpu/minibatch_stddev.cpp and csrc/cuda/minibatch_stddev.cu."""

from functools import lru_cache

import torch
from torch import Tensor

from fastgan import _native, memory
from fastgan.ops.layout import channel_dim, channel_order, sizes, with_channels


def forward(x: Tensor, group: int, features: int, eps: float) -> Tensor:
    """See `fastgan.reference.minibatch_stddev.forward`; x is dense, its channels outermost or innermost."""
    y = memory.empty_strided(*with_channels(x, x.shape[1] + features), x.dtype, x.device)
    _launch(None, x, y, group, features, eps)
    return y


def backward(dy: Tensor, x: Tensor, group: int, features: int, eps: float) -> Tensor:
    """See `fastgan.reference.minibatch_stddev.backward`; dy has the layout of the forward's result."""
    dx = memory.empty_like(x, x.dtype)
    _launch(dy, x, dx, group, features, eps)
    return dx


def _launch(dy: Tensor | None, x: Tensor, out: Tensor, group: int, features: int, eps: float) -> None:
    count, channels, positions, _ = sizes(x)
    last = channel_dim(channel_order(x)) != 1
    shape = count, channels, positions, group, features
    workspace = memory.empty((_workspace_size(x.device, *shape),), torch.float64, x.device)
    _native.launch("minibatch_stddev", x.device, dy, x, out, workspace, *shape, last, eps, x.dtype)


@lru_cache(maxsize=1024)
def _workspace_size(device: torch.device, *shape: int) -> int:
    return _native.query("minibatch_stddev_workspace", device, *shape)
