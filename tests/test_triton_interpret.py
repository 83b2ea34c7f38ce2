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


# What of the contracts the interpreter, which takes seconds where a kernel takes microseconds, is asked for.
CONTRACTS = {
    "samples": "(sample or interpolate) and (exact and float32 or layouts and bfloat16 or gradcheck)",
    "channels": "(bias_act or sum_channels or scale_shift_act or pixel_shuffle) and (exact and float32 or run_to_run)",
    "norms": "norm_act and (linear or tanh) and (layouts and bfloat16 or run_to_run)",
    "others": "(upfirdn2d or spectral_norm or minibatch_stddev) and (exact and float32 or run_to_run)"
    " or minibatch_stddev and layouts and bfloat16",
}
# And of what only one op has.
OTHERS = {
    "bias_act": "finite or each_others",
    "scale_shift_act": "finite and scale_shift_act",
    "norm_act": "statistics and float32-batch",
    "interpolate": "finite",
    "sample_norm": "finite",
    "minibatch_stddev": "same or nan",
    "upfirdn2d": "one_axis",
    "upfirdn2d_bias_act": "non_finite",
}


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("name", CONTRACTS)
def test_contracts_in_the_interpreter(name):
    """What torch makes of the op around the kernels is the same for every backend."""
    interpret(str(TESTS / "contract" / "test_contract.py"), "-k", f"triton-cpu and ({CONTRACTS[name]})")


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_what_single_ops_have_in_the_interpreter():
    files = [str(TESTS / f"test_{stem}.py") for stem in OTHERS]
    chosen = " or ".join(f"test_{stem} and ({expression})" for stem, expression in OTHERS.items())
    interpret(*files, "-k", f"triton-cpu and ({chosen})")
