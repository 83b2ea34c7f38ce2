"""Imports point down only."""

import ast
from pathlib import Path

import pytest

import fastgan

SOURCE = Path(fastgan.__file__).parent
# A module imports from layers below its own, and from its own package. One file of a package may be a layer.
LAYERS = [
    {"cli"},
    {"doctor"},
    {"bench"},
    {"train"},
    {"compat", "fusion", "penalty"},
    {"nn", "optim", "intercept"},
    {"functional"},
    {"convolution", "spectral"},
    {"ops"},
    {"backends"},
    {"reference", "kernels", "native"},
    {"_native"},
    {"filters", "ops.layout", "cuda_device"},
    {"memory", "check", "around", "environment"},
    {"mix_in", "modes"},
    {"_C", "_build_info", "autocast"},
]
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
# What fastgan/__init__.py offers stands as high as the highest module that it imports.
DEPTH |= dict.fromkeys(set(fastgan.__all__) - set(DEPTH) | {"__version__"}, DEPTH["fusion"])


def sources():
    """Name of the part -> files."""
    roots = {"kernels": SOURCE.parent / "kernels", "bench": SOURCE.parent / "bench"}
    for path in [*SOURCE.rglob("*.py"), *(p for root in roots.values() for p in root.rglob("*.py"))]:
        for name, root in roots.items():
            if path.is_relative_to(root):
                yield name, path
                break
        else:
            # A package's command line stands with the command line: it puts layers together.
            parts = path.relative_to(SOURCE).parts
            part = (parts[-1] if parts[-1] == "cli.py" else parts[0]).removesuffix(".py")
            module = ".".join(parts).removesuffix(".py")
            part = module if module in DEPTH else part
            if part not in {"__init__", "_build_info"}:
                yield part, path


def imports(tree):
    """Names of the imported parts, lazy imports included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            names = [f"{node.module}.{alias.name}" if node.module == "fastgan" else node.module for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("fastgan."):
                _, part, *rest = name.split(".")
                module = ".".join([part, *rest[:1]])
                yield module if module in DEPTH else part


@pytest.mark.parametrize(
    ("part", "path"), [pytest.param(*s, id=str(s[1].relative_to(SOURCE.parent))) for s in sources()]
)
def test_imports_point_down(part, path):
    assert part in DEPTH, f"{path} belongs to no layer"
    for imported in imports(ast.parse(path.read_text())):
        assert imported in DEPTH, f"{path} imports fastgan.{imported}, which belongs to no layer"
        assert imported == part or DEPTH[imported] > DEPTH[part], f"{path} imports fastgan.{imported} from above"


def test_only_native_knows_pointers():
    for part, path in sources():
        if part not in {"_native", "kernels"}:
            assert "data_ptr(" not in path.read_text(), path
