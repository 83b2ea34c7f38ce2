"""BasicSR's `basicsr.ops`, on which Real-ESRGAN and GFPGAN stand: fused_act and upfirdn2d.

Where `fused_act_ext` and `upfirdn2d_ext` are not built, ours stand in for them.
"""

from fastgan.compat.families.fused_leaky_relu import FUSED_ACT, UPFIRDN2D, fused_bias_act, upfirdn2d_ext
from fastgan.compat.patching import Family
from fastgan.compat.plugins import untouched

_OPS = "basicsr.ops"
_ACT, _FIR = {"fused_bias_act": untouched(fused_bias_act)}, {"upfirdn2d": untouched(upfirdn2d_ext)}
FAMILY = Family(
    summary="basicsr.ops: fused_leaky_relu and upfirdn2d, without their extensions",
    functions={
        f"{_OPS}.fused_act.fused_act": FUSED_ACT,
        f"{_OPS}.fused_act": FUSED_ACT,
        f"{_OPS}.upfirdn2d.upfirdn2d": UPFIRDN2D,
        f"{_OPS}.upfirdn2d": UPFIRDN2D,
    },
    stand_ins={f"{_OPS}.fused_act.fused_act_ext": _ACT, f"{_OPS}.upfirdn2d.upfirdn2d_ext": _FIR},
    plugins={"fused_act_ext": _ACT, "upfirdn2d_ext": _FIR},
)
