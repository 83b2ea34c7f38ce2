"""Chains of one torch call or more that one function of ours computes: how they begin and go on, what they run as.

A *link* is what is known behind a call of a chain, which has not run yet since the next one may take its result.

    upsample_conv       interpolate (nearest) -> convolution
    conv_downsample     convolution -> average pooling
    pointwise_conv      1x1 convolution
    resample            interpolate (nearest or bilinear) or avg_pool2d
    norm_act            batch_norm or instance_norm [-> * gain] [-> + bias] -> activation
    bias_act            [+ bias ->] activation [-> * gain] [-> clamp], two of these or more
"""

from collections.abc import Callable

from fastgan.fusion.chains.convolution import begin_convolved
from fastgan.fusion.chains.elementwise import ACTIVATIONS, begin_biased, begin_normalized
from fastgan.fusion.chains.link import Link, fitting, follow
from fastgan.fusion.chains.resampling import begin_pooled, begin_upsampled
from fastgan.intercept import Call

__all__ = ["CHAIN_STARTS", "OPS", "Link", "begin", "follow"]

OPS = ("upsample_conv", "conv_downsample", "pointwise_conv", "resample", "norm_act", "bias_act")
# The link behind the first call of a chain, by the call's name.
CHAIN_STARTS: dict[str, Callable[[Call], Link | str]] = {
    "interpolate": begin_upsampled,
    "upsample": begin_upsampled,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), begin_convolved),
    "avg_pool2d": begin_pooled,
    **dict.fromkeys(("batch_norm", "instance_norm"), begin_normalized),
    **dict.fromkeys(("add", *ACTIVATIONS), begin_biased),
}


def begin(call: Call) -> Link | str:
    """The link behind a call that a chain may begin with; or why none does."""
    return fitting(CHAIN_STARTS[call.name], call)
