"""Triton's kernels on the CPU. The interpreter has to be chosen before triton is imported: in a process of its own."""

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest


def release(package: str) -> tuple[int, int]:
    major, minor = version(package).split(".")[:2]
    return int(major), int(minor)


TESTS = Path(__file__).parent


def interpret(*arguments: str) -> None:
    if release("triton") < (3, 7) and release("numpy") >= (2, 4):
        pytest.skip("before triton 3.7 the interpreter cannot run a loop with numpy 2.4 or later")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *arguments],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        pytest.fail(f"{run.stdout}\n{run.stderr}", pytrace=False)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_kernels_in_the_interpreter():
    interpret(str(TESTS / "triton" / "interpreted.py"))


# By op, what of its contract the interpreter, which takes seconds where a kernel takes microseconds, is asked for.
WHOLE = "exact or layouts or gradcheck or finite or bits"
CONTRACTS = {
    "sample_norm": WHOLE,
    "interpolate": WHOLE,
    "bias_act": "gradcheck and gelu-default or finite or sum_channels",
    "scale_shift_act": "finite and scale_shift_act",
    "norm_act": "statistics and float32-batch",
    "pixel_shuffle_act": "gradcheck and linear",
    "upfirdn2d": "one_axis",
    "upfirdn2d_bias_act": "exact and float16 and True-up2-lrelu-clamp or gradcheck and down2 or non_finite",
}


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("stem", CONTRACTS)
def test_contract_of_an_op_in_the_interpreter(stem):
    """What torch makes of the op around the kernels is the same for every backend."""
    interpret(str(TESTS / f"test_{stem}.py"), "-k", f"triton-cpu and ({CONTRACTS[stem]})")
