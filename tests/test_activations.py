"""The activations that kernels share: the reference's formulas are torch's, the CPU's functions are exact."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fastgan import _native
from fastgan.reference import activations

ROOT = Path(__file__).parents[1]
TORCHS = {
    "linear": lambda z: z,
    "relu": torch.relu,
    "lrelu": lambda z: F.leaky_relu(z, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "swish": F.silu,
    "gelu": F.gelu,
}
POINTS = [0.0, -0.0, 1e-3, -1e-3, 0.7, -0.7, 3.0, -3.0, 12.0, -12.0, 25.0, -25.0, 200.0, -200.0]
each = pytest.mark.parametrize("act", TORCHS)


def test_every_activation_is_known_everywhere():
    declared = re.search(r"enum class Activation : int \{(.*?)\}", (ROOT / "csrc/activations.h").read_text())[1]
    names = [name.strip() for name in declared.split(",")]
    assert list(activations.FACTS) == names == list(_native._ACTIVATION_CODES)


@each
def test_value_and_derivatives_are_torchs(act):
    z = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    alpha = activations.FACTS[act].alpha
    expected = TORCHS[act](z)
    value = activations.value(act, z, alpha)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-15)
    (first,) = torch.autograd.grad(expected.sum(), z, create_graph=True)
    slope = activations.slope(act, z, alpha)
    torch.testing.assert_close(slope, first, rtol=1e-13, atol=1e-15)
    second = torch.zeros_like(z)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), z, retain_graph=True)
    torch.testing.assert_close(activations.curvature(act, z), second, rtol=1e-12, atol=1e-14)


@each
def test_formulas_can_be_differentiated(act):
    z = torch.tensor([p for p in POINTS if p], dtype=torch.float64, requires_grad=True)
    functions = [lambda t: activations.slope(act, t, 0.2), lambda t: activations.curvature(act, t)]
    if activations.FACTS[act].slope_at_value:
        functions += [
            lambda t: activations.slope_at_value(act, t, 0.2),
            lambda t: activations.curvature_at_value(act, t),
        ]
    for function in functions:
        if function(z).requires_grad:
            small = z.detach().clamp(-15, 15).requires_grad_()
            assert torch.autograd.gradcheck(function, small)
            assert torch.autograd.grad(function(z).sum(), z)[0].isfinite().all()


@pytest.mark.parametrize("act", [name for name, facts in activations.FACTS.items() if facts.slope_at_value])
def test_value_determines_the_slope(act):
    alpha = activations.FACTS[act].alpha
    z = torch.tensor([p for p in POINTS if 0 < abs(p) < 20], dtype=torch.float64)
    v = activations.value(act, z, alpha).requires_grad_()
    slope = activations.slope_at_value(act, v, alpha)
    torch.testing.assert_close(slope, activations.slope(act, z, alpha), rtol=1e-6, atol=1e-14)
    derivative = torch.zeros_like(v)
    if slope.requires_grad:
        (derivative,) = torch.autograd.grad(slope.sum(), v)
    torch.testing.assert_close(activations.curvature_at_value(act, v), derivative)


@each
def test_nan_stays(act):
    z = torch.tensor([torch.nan], dtype=torch.float64)
    assert activations.value(act, z, 0.2).isnan()


@pytest.mark.parametrize("level", ["base", "v3", "v4"])
def test_functions_of_the_cpu_are_exact(level, tmp_path):
    """All magnitudes, rounded multiplications fused and not."""
    from fastgan import _C

    if level not in _C.cpu.levels():
        pytest.skip(f"this processor, or the build, has no level {level}: {_C.cpu.levels()}")
    program = tmp_path / "cpu_math"
    flags = [] if level == "base" else [f"-march=x86-64-{level}"]
    command = [os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-ffp-contract=fast", *flags, f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, ROOT / "tests" / "cpu_math.cpp", "-o", program], check=True)
    said = subprocess.run([program], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
