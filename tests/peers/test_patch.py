"""What fastgan.patch decides about codebases as they are published."""

import importlib
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from torch.torch_version import TorchVersion
from torch.utils import cpp_extension

import fastgan

OPS = {
    "bias_act": ["bias_act"],
    "upfirdn2d": ["setup_filter", "upfirdn2d", "filter2d", "upsample2d", "downsample2d"],
    "conv2d_gradfix": ["conv2d", "conv_transpose2d", "no_weight_gradients"],
    "grid_sample_gradfix": ["grid_sample"],
    "fma": ["fma"],
}
STYLEGAN = {f"torch_utils.ops.{module}": names for module, names in OPS.items()}
PSP = {"fused_act": ["FusedLeakyReLU.forward", "fused_leaky_relu"], "upfirdn2d": ["upfirdn2d"]}
SECOND = "compared by a call"
LAST = f"{SECOND}: the bias is of the last of three dimensions"
TWO = f"{SECOND}: two values of pad are read"
FIXED = f"{SECOND}: on a CPU negative_slope is 0.2, whatever is passed"
# What the codebases import and these modules of theirs do not need.
ABSENT = {"requests": {}, "pkg_resources": {"parse_version": TorchVersion}}
# Family, and how functions were compared, where it says more than that it was by a call.
DECISIONS = {
    "stylegan2-ada": ("stylegan", STYLEGAN, {}),
    "stylegan3": ("stylegan", STYLEGAN, {}),
    "r3gan": ("stylegan", STYLEGAN, {}),
    "stylenerf": ("stylegan", STYLEGAN, {"grid_sample": f"{SECOND}: its gradients fail"}),
    "rosinality": ("rosinality", {f"op.{m}": n for m, n in PSP.items()}, {"leaky": FIXED, "Leaky": FIXED}),
    "psp": ("psp", {f"models.stylegan2.op.{m}": n for m, n in PSP.items()}, {"upfirdn2d": TWO}),
    "styleclip": (
        "styleclip",
        {f"models.stylegan2.op.{m}": n for m, n in PSP.items()},
        {"upfirdn2d": TWO, "leaky": LAST, "Leaky": LAST},
    ),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_what_is_replaced_in_a_codebase(name, peer, monkeypatch):
    family, functions, said = DECISIONS[name]
    for loader in ("load", "load_inline"):
        monkeypatch.setattr(cpp_extension, loader, lambda *_, **__: pytest.fail("something is compiled"))
    peer(name)
    for package, contents in ABSENT.items():
        if find_spec(package) is None:
            monkeypatch.setitem(sys.modules, package, SimpleNamespace(**contents))
    fastgan.patch(family)
    try:
        for module in functions:
            importlib.import_module(module)
        rows = {row.name: row for row in fastgan.patch(family).rows}
    finally:
        fastgan.unpatch(family)
    for module, names in functions.items():
        for function in names:
            reason = next((text for part, text in said.items() if part in function), SECOND)
            assert rows[f"{module}.{function}"][1:] == ("replaced", reason)
