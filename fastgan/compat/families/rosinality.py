"""The `op` package of rosinality's StyleGAN2, which pSp, e4e and SAM carry as `models.stylegan2.op`.

The package starts nvcc when it is imported, so ours stand in for the whole of it.
"""

from typing import Any

from fastgan.compat.families.fused_leaky_relu import FusedLeakyReLU, fused_leaky_relu, upfirdn2d
from fastgan.compat.families.stylegan import GRADFIX
from fastgan.compat.patching import Family

_FUSED_ACT = {"FusedLeakyReLU": FusedLeakyReLU, "fused_leaky_relu": fused_leaky_relu}
_UPFIRDN2D = {"upfirdn2d": upfirdn2d}


def _package(name: str) -> dict[str, dict[str, Any]]:
    return {
        name: _FUSED_ACT | _UPFIRDN2D,
        f"{name}.fused_act": _FUSED_ACT,
        f"{name}.upfirdn2d": _UPFIRDN2D,
        f"{name}.conv2d_gradfix": GRADFIX,
    }


_MODULES = {name: contents for root in ("op", "models.stylegan2.op") for name, contents in _package(root).items()}
FAMILY = Family(
    summary="the op package: fused_leaky_relu, FusedLeakyReLU, upfirdn2d, conv2d_gradfix",
    functions=_MODULES,
    stand_ins=_MODULES,
)
