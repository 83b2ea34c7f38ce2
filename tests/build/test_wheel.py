"""The wheel: what is in it, what must not be, and that it works where it is installed."""

import sys
import zipfile

import pytest

pytestmark = pytest.mark.slow

KERNEL_CALL = """
import torch, fastgan
weight, u, v = torch.randn(5, 7), torch.randn(5), torch.randn(7)
with fastgan.backend("cpu"):
    result = fastgan.functional.spectral_norm([weight], [u], [v], n_power_iterations=500)
torch.testing.assert_close(result.sigmas[0], torch.linalg.matrix_norm(weight, 2))
print(fastgan.__file__)
"""
WHERE = """
import importlib.util
for name in ("fastgan", "fastgan.kernels", "fastgan.bench", "kernels", "bench"):
    spec = importlib.util.find_spec(name)
    print(name, spec and spec.origin)
"""


def names(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def test_holds_fastgan_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in names(wheel)}
    assert tops == {"fastgan", wheel.name.split("-cp")[0] + ".dist-info"}
    assert {"fastgan/py.typed", "fastgan/_build_info.py", "fastgan/kernels/__init__.py"} <= names(wheel)
    assert not [name for name in names(wheel) if name.endswith((".cpp", ".cu", ".h", ".o"))]


def test_is_tagged_for_this_python_and_machine(wheel):
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{python}-{python}-" in wheel.name
    assert not wheel.name.endswith("-any.whl")


def test_runs_a_kernel_from_another_folder(installed, tmp_path):
    where = installed.python(KERNEL_CALL, cwd=tmp_path)
    assert where.startswith(str(installed.folder))


def test_installs_no_global_kernels_or_bench(installed, tmp_path):
    found = dict(line.split() for line in installed.python(WHERE, cwd=tmp_path).splitlines())
    assert found.pop("kernels") == found.pop("bench") == "None"
    assert all(path.startswith(str(installed.folder)) for path in found.values())


def test_source_tree_that_hides_it_says_how_to_install(installed, built_tree):
    assert not (built_tree / "fastgan" / "_build_info.py").exists()
    message = installed.python("import fastgan", cwd=built_tree, ok=False)
    assert "ImportError" in message
    assert "pip install -e ." in message


def test_second_wheel_has_no_deleted_file(tree, build_wheel):
    ghost = tree / "fastgan" / "ghost.py"
    ghost.write_text("")
    assert "fastgan/ghost.py" in names(build_wheel(tree, tree / "first", CXX="none"))
    ghost.unlink()
    assert "fastgan/ghost.py" not in names(build_wheel(tree, tree / "second", CXX="none"))


@pytest.fixture
def used_tree(tree):
    """A source tree with what an editable install leaves in it."""
    (tree / "fastgan" / "_C.of-another-build.so").write_text("")
    (tree / "fastgan" / "_build_info.py").write_text("CPU = 'of another build'\n")
    return tree


def test_has_nothing_of_an_editable_install(used_tree, build_wheel):
    wheel = build_wheel(used_tree, used_tree / "dist", CXX="none")
    assert not [name for name in names(wheel) if name.endswith(".so")]
    assert "of another build" not in zipfile.ZipFile(wheel).read("fastgan/_build_info.py").decode()


def test_source_archive_holds_all_that_a_build_needs(used_tree, call, build_wheel, tmp_path):
    call(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", tmp_path, cwd=used_tree)
    (archive,) = tmp_path.glob("*.tar.gz")
    call("tar", "-xf", archive, cwd=tmp_path)
    unpacked = archive.with_suffix("").with_suffix("")
    sources = {path.relative_to(used_tree) for path in (used_tree / "csrc").rglob("*.*")}
    assert sources == {path.relative_to(unpacked) for path in (unpacked / "csrc").rglob("*.*")}
    assert not list(unpacked.glob("fastgan/_C*.so"))
    assert not (unpacked / "fastgan" / "_build_info.py").exists()
    wheel = build_wheel(unpacked, tmp_path, CXX="none")
    assert {"fastgan/kernels/__init__.py", "fastgan/bench/__init__.py"} <= names(wheel)
