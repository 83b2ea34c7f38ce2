"""Installs other than the usual one: in place, without a compiler, and those that must be refused."""

import os
import pty
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

WHERE = """
import importlib.util, fastgan
from fastgan import _build_info, bench, kernels
assert not importlib.util.find_spec("bench") and not importlib.util.find_spec("kernels")
print(fastgan.__file__, kernels.__file__, bench.__file__, _build_info.__file__, sep="\\n")
"""


def test_editable_install_runs_the_source_tree(tree, environment, tmp_path):
    environment.install("--editable", tree, cwd=tree, CXX="none")
    where = environment.python(WHERE, cwd=tmp_path).splitlines()
    inits = [tree / package / "__init__.py" for package in ("fastgan", "kernels", "bench")]
    assert where == [str(path) for path in (*inits, tree / "fastgan" / "_build_info.py")]


def test_without_a_compiler_it_says_so_and_imports(tree, environment, tmp_path):
    said = environment.install(tree, cwd=tree, CXX="/nowhere/c++")
    assert "no C++ compiler when it was built; looked for: /nowhere/c++" in said
    assert "pure-Python install" in said
    reason = environment.python("import fastgan.backends as b; print(b.available()['cpu'].reason)", cwd=tmp_path)
    assert "no C++ compiler when it was built; looked for: /nowhere/c++" in reason


def test_in_place_build_without_a_compiler_removes_the_old_library(small_tree, call):
    build = (sys.executable, "setup.py", "build_ext", "--inplace")
    call(*build, cwd=small_tree)
    assert list(small_tree.glob("fastgan/_C*.so"))
    call(*build, cwd=small_tree, CXX="none")
    assert not list(small_tree.glob("fastgan/_C*.so"))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FASTGAN_CUDA": "1"}, "FASTGAN_CUDA=1, but nvcc was not found. Looked in: /nowhere/bin/nvcc, then PATH ("),
        ({"FASTGAN_CUDA": "yes"}, "FASTGAN_CUDA must be 0, 1 or auto, not 'yes'"),
    ],
)
def test_refuses(small_tree, call, tmp_path, variables, message):
    command = (sys.executable, "setup.py", "build_ext", "--inplace")
    assert message in call(*command, cwd=small_tree, ok=False, PATH=str(tmp_path), CUDA_HOME="/nowhere", **variables)


def test_auto_without_nvcc_is_a_cpu_build_and_one_line(small_tree, call, tmp_path):
    for tool in ("c++", "as", "ld"):
        (tmp_path / tool).symlink_to(call("sh", "-c", f"command -v {tool}", cwd=tmp_path).strip())
    said = call(
        sys.executable, "setup.py", "build_ext", "--inplace", cwd=small_tree, PATH=str(tmp_path), FASTGAN_CUDA="auto"
    )
    (line,) = [line for line in said.splitlines() if "CUDA" in line]
    assert line.startswith("fastgan: building without CUDA: no nvcc when it was built; looked in: ")
    assert list(small_tree.glob("fastgan/_C*.so"))


@pytest.mark.skipif(not shutil.which("setsid"), reason="no setsid, which gives a process a terminal of its own")
def test_pip_keeps_it_back_and_the_terminal_shows_it(small_tree):
    """A build under a terminal whose own output goes elsewhere, as it does under pip without -v."""
    ours, its = pty.openpty()
    command = f"exec {sys.executable} setup.py build_ext --inplace >log 2>&1"
    done = subprocess.run(
        ["setsid", "--ctty", "--wait", "sh", "-c", command],
        cwd=small_tree, env=os.environ | {"FASTGAN_CUDA": "0"}, stdin=its, check=False,
    )  # fmt: skip
    log = (small_tree / "log").read_text()
    assert done.returncode == 0, log
    shown = os.read(ours, 4096).decode()
    for descriptor in (ours, its):
        os.close(descriptor)
    for line in ("fastgan: building without CUDA: FASTGAN_CUDA=0", "fastgan: compiling for CPU (base"):
        assert line in shown
        assert line in log
