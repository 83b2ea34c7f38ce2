"""The `op` package of rosinality's StyleGAN2, which pSp, e4e, SAM and StyleCLIP carry as `models.stylegan2.op`."""

from typing import Any

from fastgan.compat.families.fused_leaky_relu import (
    FUSED_ACT,
    UPFIRDN2D,
    FusedLeakyReLU,
    fused_bias_act,
    fused_leaky_relu,
    upfirdn2d,
    upfirdn2d_ext,
)
from fastgan.compat.families.stylegan import GRADFIX, GRADFIX_STAND_IN
from fastgan.compat.patching import Family


def _package(name: str, act: Any, fir: Any, gradfix: Any) -> dict[str, Any]:
    return {
        f"{name}.fused_act": act,
        f"{name}.upfirdn2d": fir,
        f"{name}.conv2d_gradfix": gradfix,
        name: act | fir,
    }


_ROOTS = ("op", "models.stylegan2.op", "mapper.stylegan2.op")
_STANDS_IN = (
    {"FusedLeakyReLU": FusedLeakyReLU, "fused_leaky_relu": fused_leaky_relu},
    {"upfirdn2d": upfirdn2d},
    GRADFIX_STAND_IN,
)
FAMILY = Family(
    summary="the op package: fused_leaky_relu, FusedLeakyReLU, upfirdn2d, conv2d_gradfix",
    functions={k: v for root in _ROOTS for k, v in _package(root, FUSED_ACT, UPFIRDN2D, GRADFIX).items()},
    stand_ins={k: v for root in _ROOTS for k, v in _package(root, *_STANDS_IN).items()},
    plugins={"fused": {"fused_bias_act": fused_bias_act}, "upfirdn2d_op": {"upfirdn2d": upfirdn2d_ext}},
)
