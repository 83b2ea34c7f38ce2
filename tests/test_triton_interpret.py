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


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    "stem", ["sample_norm", "interpolate", "bias_act", "scale_shift_act", "norm_act", "pixel_shuffle_act"]
)
def test_contract_of_an_op_in_the_interpreter(stem):
    """What torch makes of the op around the kernels is the same for every backend."""
    numbers = "triton-cpu and (exact or layouts or gradcheck or finite or bits or sum_channels)"
    interpret(str(TESTS / f"test_{stem}.py"), "-k", numbers)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_resampling_in_the_interpreter():
    interpret(
        str(TESTS / "test_upfirdn2d.py"),
        "-k",
        "triton-cpu and (layouts or gradcheck or one_axis or sizes or any_arguments)",
    )
