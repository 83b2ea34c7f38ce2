"""Codebases that a test writes and imports, and that are forgotten afterwards with every patch."""

import importlib
import sys

import pytest

import fastgan
from fastgan.compat import patching

ROOTS = ("torch_utils", "training", "op", "model", "models", "basicsr", "layers", "BigGAN")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A function that writes a codebase and puts it on the path."""

    def write(files, folder="checkout"):
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / folder))
        importlib.invalidate_caches()

    before = set(sys.modules)
    yield write
    for name in list(patching._patched):
        fastgan.unpatch(name)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ROOTS:
            del sys.modules[name]
