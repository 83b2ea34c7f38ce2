"""torch's convolutions, for code that differentiates twice."""

from collections.abc import Callable

from torch import Tensor

from fastgan.convolution import double_backward as _ops
from fastgan.ops.overrides import overridable


def _public(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def convolution(*args: object, **kwargs: object) -> Tensor:
        return function(*args, **kwargs)

    convolution.__name__ = convolution.__qualname__ = name
    convolution.__doc__ = f"""`torch.nn.functional.{name}`, whose double backward is several times as fast for groups.

    Outputs and first derivatives are torch's; those of higher order, in reverse mode, are torch's to rounding. In the
    backward of a gradient penalty torch computes the weight's gradient as a convolution whose kernel is a whole feature
    map, group by group; here it is a weight gradient like any other.

    Plain torch runs for samples without a batch dimension, for `padding="same"`, for subclasses of Tensor, where
    nothing requires grad, in forward mode and where something traces or transforms the call.

    Args, returns and errors: those of `torch.nn.functional.{name}`.

    Derivatives: any order.
    """
    return overridable(convolution)


conv1d = _public("conv1d", _ops.conv1d)
conv2d = _public("conv2d", _ops.conv2d)
conv3d = _public("conv3d", _ops.conv3d)
conv_transpose1d = _public("conv_transpose1d", _ops.conv_transpose1d)
conv_transpose2d = _public("conv_transpose2d", _ops.conv_transpose2d)
conv_transpose3d = _public("conv_transpose3d", _ops.conv_transpose3d)
