"""Triton's kernels compiled for GPUs that are not there, in other processes: in this one the interpreter may be on."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
]

COMPILE = Path(__file__).parent / "triton" / "compile_ahead.py"
SMS = [80, 90, 100]


def compile_all(folder):
    """A process per GPU, side by side; a file for what each of them says."""
    folder.mkdir()
    # By content: what has not changed since the last run is not compiled again.
    env = os.environ | {"TRITON_CACHE_DIR": str(COMPILE.parents[2] / "build" / "triton")}
    env.pop("TRITON_INTERPRET", None)

    def run(sm):
        command = [sys.executable, str(COMPILE), str(sm)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        (folder / f"sm_{sm}").write_text(json.dumps([done.returncode, done.stdout, done.stderr]))

    with ThreadPoolExecutor() as pool:
        list(pool.map(run, SMS))


@pytest.fixture(scope="module", params=SMS, ids="sm_{}".format)
def compiled(request, once):
    """What every kernel compiles to: name -> registers, stack, PTX."""
    code, said, messages = json.loads((once("triton", compile_all) / f"sm_{request.param}").read_text())
    if code:
        pytest.fail(messages, pytrace=False)
    kernels = [json.loads(line) for line in said.splitlines()]
    return {f"{kernel['kernel']}[{kernel['variant']}]": kernel for kernel in kernels}


def test_every_kernel_is_compiled(compiled):
    sources = [path.read_text() for path in (COMPILE.parents[2] / "kernels").glob("*.py")]
    names = {name for source in sources for name in re.findall(r"def (_\w+_kernel)\(", source)}
    assert names == {kernel["kernel"] for kernel in compiled.values()}


def test_nothing_spills(compiled):
    assert not {name: kernel["stack"] for name, kernel in compiled.items() if kernel["stack"]}


def test_two_programs_fit_on_a_multiprocessor(compiled):
    # 65,536 registers, 256 threads per program.
    assert not {name: kernel["registers"] for name, kernel in compiled.items() if kernel["registers"] > 128}


def test_loads_and_stores_are_wide(compiled):
    def moves(kernel, kind):
        return re.findall(rf"{kind}\.global(?:\.\w+)*\.v[24]\.", kernel["ptx"])

    # Where pixels are single numbers, an output gathers its inputs one by one; so does a sum of one channel of many.
    gathers = re.compile(r"_upfirdn2d_kernel.*, 1 channels|_minibatch_stddev_slope_kernel.*, last")
    assert not [name for name, kernel in compiled.items() if not moves(kernel, "ld") and not gathers.match(name)]
    written = [name for name in compiled if re.search("write|bwd", name)]
    assert written
    assert not [name for name in written if not moves(compiled[name], "st")]


def test_the_samples_of_a_group_are_loaded_once(compiled):
    """For the statistics and for the copy of x: equal loads in the source of minibatch_stddev become one."""
    of_block = {name: kernel for name, kernel in compiled.items() if re.match(r"_minibatch.*fwd.*, 8 samples", name)}
    assert of_block
    for name, kernel in of_block.items():
        # 2,048 values, of float64 1,024, by 256 threads, in packets of 16 bytes.
        packets = 1 if "float16" in name else 2
        assert len(re.findall(r"ld\.global", kernel["ptx"])) == packets, name


def test_division_and_roots_are_correctly_rounded(compiled):
    approximations = re.compile(r"(?:div|sqrt|rcp|rsqrt)\.(?:full|approx)[\w.]*")
    assert any("div.rn.f32" in kernel["ptx"] for kernel in compiled.values())
    assert not {name: found for name, kernel in compiled.items() if (found := approximations.findall(kernel["ptx"]))}


def test_sizes_of_almost_2_to_the_31_do_not_overflow(compiled):
    assert not {name: kernel["overflows"] for name, kernel in compiled.items() if kernel["overflows"]}


def test_sizes_of_1_which_triton_makes_constants(compiled):
    assert not {name: kernel["of_one"] for name, kernel in compiled.items() if kernel["of_one"]}
