"""The CUDA sources without a GPU: no kernel spills, the library loads without a driver, the indices are right."""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from fastgan import _build_info

ROOT = Path(__file__).parents[1]
OPS = sorted(path.stem for path in ROOT.glob("csrc/cuda/*.cu"))
KERNELS = {
    name
    for path in ROOT.glob("csrc/cuda/*.cu*")
    for name in re.findall(r"__global__[^;{]*?(\w+_kernel)\(", path.read_text())
}
SANITIZE = ["-fsanitize=undefined", "-fno-sanitize-recover=undefined"]

# Loads a library by its path, runs what the host does for an activation of nothing in each dtype, then asks for a
# forward of one layer [1, 1] at null pointers.
WITHOUT_DRIVER = """
import importlib.util, sys
import torch
spec = importlib.util.spec_from_file_location("_C", sys.argv[1])
C = importlib.util.module_from_spec(spec)
spec.loader.exec_module(C)
runtime, driver = C.cuda.versions()
assert runtime // 1000 >= 12 and (driver == 0 or driver >= 12000), (runtime, driver)
assert C.cuda.spectral_norm_workspace([128, 1], [1152, 9]) > 128 + 1152
for dtype in range(4):
    C.cuda.bias_act(0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0.0, 1.0, 0.3, dtype, 0)
one = [0]
try:
    C.cuda.spectral_norm_forward(one, one, one, one, one, one, [1], [1], 0, 0, 1, 1e-12, True, 1, 1, 0)
except RuntimeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def setup_py():
    """The functions of setup.py."""
    spec = importlib.util.spec_from_file_location("fastgan_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cxx(setup_py):
    """The C++ compiler that setup.py would use."""
    command, tried = setup_py.find_cxx(os.environ)
    if command is None:
        pytest.skip(f"needs a C++ compiler; looked for {', '.join(tried)}")
    return command


@pytest.fixture(scope="module")
def plan(setup_py, cxx, once):
    """A finished build for what is installed, in the folder that installing uses: nothing is compiled twice."""
    toolkit, looked = setup_py.find_toolkit(os.environ)
    if toolkit is None:
        pytest.skip(f"needs nvcc, which was not found. Looked in: {looked}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.delenv("FASTGAN_SANITIZE", raising=False)
        if built := [arch.removeprefix("sm_") for arch in _build_info.CUDA_ARCHS if arch.startswith("sm_")]:
            patch.setenv("FASTGAN_CUDA_ARCHS", ";".join(built))
        made = setup_py.make_plan(os.environ, cxx, toolkit)
        once("ninja", lambda _: setup_py.run_ninja(made))
    return made


def usage(report):
    """What ptxas -v says, as {target: {kernel: (stack, spill stores, spill loads)}} in bytes."""
    found = defaultdict(dict)
    pattern = (
        r"Compiling entry function '(\w+)' for '(\w+)'\n.*\n"
        r"\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    )
    for kernel, target, *numbers in re.findall(pattern, report):
        found[target][kernel] = tuple(map(int, numbers))
    return found


def test_every_kernel_is_an_ops():
    assert [name for name in KERNELS if not any(op in name for op in OPS)] == []


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_no_kernel_spills(plan, op):
    found = usage((ROOT / plan.folder / f"cuda-{'-'.join(plan.cuda_archs)}" / f"{op}.o.log").read_text())
    assert set(found) == {f"sm_{arch}" for arch in plan.cuda_archs}
    for kernels in found.values():
        # Templates: each for four dtypes, or for two accumulators.
        names = Counter(name for kernel in kernels for name in KERNELS if f"{len(name)}{name}I" in kernel)
        assert set(names) == {name for name in KERNELS if op in name}
        assert names.total() == len(kernels)
        assert {name: count for name, count in names.items() if count % 4 and count != 2} == {}
        assert {kernel: used for kernel, used in kernels.items() if any(used)} == {}


@pytest.mark.slow
def test_library_loads_without_a_driver_and_says_what_is_missing(plan):
    """Where there is a device it is hidden: CUDA then answers as on a machine that has a driver and no device."""
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_DRIVER, ROOT / plan.library],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.fullmatch(r"CUDA device: (CUDA driver version is insufficient|no CUDA-capable device) .*\n", said)


def test_every_number_is_met_once(setup_py, cxx, tmp_path):
    """Rows, columns, parts and streams, odd sizes, more layers than one launch takes, more than 2^31 numbers."""
    program = tmp_path / "cuda_plan"
    sanitize = SANITIZE if setup_py.accepted(cxx, SANITIZE) else []
    source = ROOT / "tests" / "cuda_plan.cpp"
    subprocess.run([*cxx, "-std=c++17", "-O1", *sanitize, f"-I{ROOT / 'csrc'}", source, "-o", program], check=True)
    said = subprocess.run([program], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
