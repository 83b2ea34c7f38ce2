"""BasicSR's `basicsr.ops`, on which Real-ESRGAN and GFPGAN stand: fused_act and upfirdn2d.

Ours stand in for `fused_act_ext` and `upfirdn2d_ext` too, so that nothing is compiled when their packages are imported.
"""

from torch import Tensor

from fastgan import functional
from fastgan.compat.families.fused_leaky_relu import fused_leaky_relu, upfirdn2d
from fastgan.compat.patching import Family


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
    y = functional.upfirdn2d(input.movedim(-1, 1), kernel.float(), [up_x, up_y], [down_x, down_y], around)
    return y.movedim(1, -1)


_OPS = "basicsr.ops"
FAMILY = Family(
    summary="basicsr.ops: fused_leaky_relu and upfirdn2d, without their extensions",
    functions={
        f"{_OPS}.fused_act.fused_act": {"fused_leaky_relu": fused_leaky_relu},
        f"{_OPS}.upfirdn2d.upfirdn2d": {"upfirdn2d": upfirdn2d},
    },
    stand_ins={
        f"{_OPS}.fused_act.fused_act_ext": {"fused_bias_act": fused_bias_act},
        f"{_OPS}.upfirdn2d.upfirdn2d_ext": {"upfirdn2d": upfirdn2d_ext},
    },
)
