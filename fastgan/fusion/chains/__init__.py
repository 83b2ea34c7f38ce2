"""Chains of one torch call or more that one function of ours computes: how they begin and go on, what they run as.

A *link* is what is known after a call of a chain, which has not run yet, since the next call may take its result.

    upsample_conv       interpolate (nearest) -> convolution
    conv_downsample     convolution -> average pooling
    pointwise_conv      1x1 convolution
    resample            interpolate (nearest or bilinear) or avg_pool2d
    norm_act            batch_norm or instance_norm [-> * gain] [-> + bias] -> activation
    bias_act            [+ bias ->] activation [-> * gain] [-> clamp], two of these or more
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastgan import functional
from fastgan.fusion.chains.convolution import begin_convolved
from fastgan.fusion.chains.elementwise import ACTIVATIONS, begin_biased, begin_normalized
from fastgan.fusion.chains.link import Link, fitting, follow
from fastgan.fusion.chains.resampling import begin_pooled, begin_upsampled
from fastgan.intercept import Call

__all__ = ["CHAIN_STARTS", "OPS", "Link", "begin", "follow"]

OPS = ("upsample_conv", "conv_downsample", "pointwise_conv", "resample", "norm_act", "bias_act")
# The link after the first call of a chain, by the call's name.
_BEGIN: dict[str, Callable[[Call], Link | str]] = {
    "interpolate": begin_upsampled,
    "upsample": begin_upsampled,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), begin_convolved),
    "avg_pool2d": begin_pooled,
    **dict.fromkeys(("batch_norm", "instance_norm"), begin_normalized),
    **dict.fromkeys(("add", *ACTIVATIONS), begin_biased),
}
_SPELLINGS = {"add": ("add", "__add__", "__radd__")}
# The calls that a chain may begin with; what changes its argument in place is none of them.
CHAIN_STARTS: frozenset[Callable] = frozenset(
    getattr(place, spelling)
    for name in _BEGIN
    for spelling in _SPELLINGS.get(name, (name,))
    for place in (torch, nn.functional, Tensor)
    if hasattr(place, spelling)
) - {torch.batch_norm, torch.instance_norm}  # their arguments come in another order
CHAIN_STARTS |= {functional.conv1d, functional.conv2d, functional.conv3d}


def begin(call: Call) -> Link | str:
    """The link after a call that a chain may begin with; or why none does."""
    return fitting(_BEGIN[call.name], call)
