"""Copies of the source tree, wheels made from them, and clean environments to install them in."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation")
# Settings of the shell that runs the tests, which must not reach the builds that they try.
FOREIGN = {"CC", "CXX", "FASTGAN_BACKEND", "FASTGAN_CUDA_ARCHS", "FASTGAN_SANITIZE", "LD_PRELOAD", "PYTHONPATH"}

# A module in Python's own C API: it compiles in a moment.
BIND = """
#include <Python.h>
namespace fastgan::base { int level(); }
static PyObject* base_level(PyObject*, PyObject*) { return PyLong_FromLong(fastgan::base::level()); }
static PyMethodDef methods[] = {{"base_level", base_level, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
"""
LEVEL = """
#include "level.h"
namespace fastgan::FASTGAN_CPU_LEVEL { int level() { return compiled_level(); } }
"""
# Every level emits this function, under one name.
LEVEL_HEADER = """
__attribute__((noinline)) inline int compiled_level() {
#if defined(__AVX512F__)
  return 4;
#elif defined(__AVX2__)
  return 3;
#else
  return 1;
#endif
}
"""


def call(*command, cwd, ok=True, **variables):
    """Run a command with more environment variables, without CUDA unless they say otherwise.

    Return its two outputs as one text, after checking that it succeeded, or failed if not ok.
    """
    env = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    env |= {"FASTGAN_CUDA": "0"} | variables
    command = [str(part) for part in command]
    done = subprocess.run(
        command, cwd=cwd, env=env, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert (done.returncode == 0) is ok, f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}"
    return done.stdout


class Environment(NamedTuple):
    """A virtual environment that shares torch and the build tools with the one that runs the tests."""

    folder: Path

    def python(self, code, **options):
        """Run Python code; options as for `call`."""
        return call(self.folder / "bin" / "python", "-c", code, **options)

    def install(self, *arguments, **options):
        """Install with pip, without network; options as for `call`."""
        pip = (sys.executable, "-m", "pip", "--python", self.folder / "bin" / "python", "install", "--verbose")
        return call(*pip, *OFFLINE, "--ignore-installed", *arguments, **options)


def build_wheel(tree, into, **variables):
    """Build a wheel from a tree, as pip does, and return its path."""
    call(sys.executable, "-m", "pip", "wheel", *OFFLINE, ".", "--wheel-dir", into, cwd=tree, **variables)
    (wheel,) = into.glob("*.whl")
    return wheel


def copy_tree(into):
    """Copy what a clone would have: no built library, no generated file."""
    if not (ROOT / ".git").exists():
        pytest.skip("not in a git clone, so what belongs to the source tree is not known")
    for name in call("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).exists():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)
    return into


def make_environment(folder):
    """Make a virtual environment that sees the packages of the running one, but no package installed in place there."""
    venv.create(folder, with_pip=False)
    paths = {"base": folder, "platbase": folder}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    site.joinpath("shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return Environment(folder)


@pytest.fixture(scope="session", name="call")
def call_fixture():
    """Run a command."""
    return call


@pytest.fixture(scope="session", name="build_wheel")
def build_wheel_fixture():
    """Build a wheel."""
    return build_wheel


@pytest.fixture(scope="session")
def setup_py():
    """The functions of setup.py."""
    spec = importlib.util.spec_from_file_location("fastgan_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path):
    """A copy of the source tree, to build in and to change."""
    return copy_tree(tmp_path / "tree")


@pytest.fixture
def small_tree(tree):
    """A copy of the source tree whose csrc/ compiles at once."""
    shutil.rmtree(tree / "csrc")
    (tree / "csrc" / "cpu").mkdir(parents=True)
    (tree / "csrc" / "module.cpp").write_text(BIND)
    (tree / "csrc" / "level.h").write_text(LEVEL_HEADER)
    (tree / "csrc" / "cpu" / "level.cpp").write_text(LEVEL)
    return tree


@pytest.fixture
def environment(tmp_path):
    """A clean environment with nothing installed."""
    return make_environment(tmp_path / "environment")


@pytest.fixture(scope="session")
def built_tree(tmp_path_factory):
    """A copy of the source tree in which the wheel was built, from the objects that the tree itself has."""
    tree = copy_tree(tmp_path_factory.mktemp("built"))
    for folder in ROOT.glob("build/ninja-*"):
        shutil.copytree(folder, tree / "build" / folder.name, ignore=shutil.ignore_patterns("cuda-*", "*.so"))
    return tree


@pytest.fixture(scope="session")
def wheel(built_tree):
    """The CPU wheel of the source tree."""
    return build_wheel(built_tree, built_tree / "dist")


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """An environment in which the wheel is installed."""
    environment = make_environment(tmp_path_factory.mktemp("installed"))
    environment.install(wheel, cwd=wheel.parent)
    return environment
