"""The ninja build: incremental, safe on old processors, and loud when a source does not compile."""

import os
import re
import shutil
import sys

import pytest

pytestmark = pytest.mark.slow

BUILD = (sys.executable, "setup.py", "build_ext", "--inplace")


def compiled(said):
    return set(re.findall(r"C\+\+ (\S+)", said))


def test_second_build_does_nothing_and_an_edit_compiles_what_it_touches(small_tree, call):
    assert compiled(call(*BUILD, cwd=small_tree)) == {"csrc/module.cpp", "csrc/cpu/level.cpp"}
    assert "no work to do" in call(*BUILD, cwd=small_tree)
    header = small_tree / "csrc" / "level.h"
    header.write_text(header.read_text() + "// edited\n")
    assert compiled(call(*BUILD, cwd=small_tree)) == {"csrc/cpu/level.cpp"}


def test_ninja_is_found_on_path(small_tree, call, tmp_path):
    """In pip's isolated environment the package's own answer is wrong, and PATH is right."""
    (tmp_path / "ninja.py").write_text("BIN_DIR = '/nowhere'\n")
    program = tmp_path / "ninja"
    program.write_text("#!/bin/sh\necho ninja of PATH\nexit 1\n")
    program.chmod(0o755)
    path = {"PYTHONPATH": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert "ninja of PATH" in call(*BUILD, cwd=small_tree, ok=False, **path)


def test_error_in_a_source_is_shown(small_tree, call):
    (small_tree / "csrc" / "module.cpp").write_text("int broken( {\n")
    said = call(*BUILD, cwd=small_tree, ok=False)
    assert "csrc/module.cpp:1:" in said
    assert "fastgan: csrc/ did not compile; the compiler's message is above" in said


def test_lowest_level_never_runs_code_of_a_higher_one(small_tree, call):
    """An inline function that every level emits must be linked in its baseline form."""
    call(*BUILD, cwd=small_tree)
    code = (
        "import importlib.util, sys; s = importlib.util.spec_from_file_location('_C', sys.argv[1]);"
        "m = importlib.util.module_from_spec(s); s.loader.exec_module(m); print(m.base_level())"
    )
    (library,) = small_tree.glob("fastgan/_C*.so")
    assert call(sys.executable, "-c", code, library, cwd=small_tree) == "1\n"


def test_higher_levels_share_no_code_and_run_nothing_at_import(wheel, built_tree, call):
    """Neither a copy of a library's inline function nor a static initialiser may be compiled for a higher level."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm, from binutils")
    objects = [path for path in built_tree.glob("build/ninja-*/cpu/*.o") if not path.name.endswith(".base.o")]
    if not objects:
        pytest.skip("this machine or its compiler has the baseline level only")
    symbols = "".join(call("nm", "--demangle", path, cwd=built_tree) for path in objects)
    assert "fastgan::" in symbols
    assert not re.findall(r" [VWu] std::.*", symbols)
    assert "_GLOBAL__sub_I" not in symbols
