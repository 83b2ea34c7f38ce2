"""What the documents say is true: their code runs, their links and make targets exist."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from fastgan.compat import patching

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md", *(ROOT / "docs").glob("*.md")]
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.fixture
def unpatched():
    yield
    for name in list(patching._patched):
        fastgan.unpatch(name)


def given() -> dict:
    """What the documents' code takes as given."""
    G = nn.Sequential(nn.Linear(4, 3 * 8 * 8), nn.Unflatten(1, (3, 8, 8)), nn.Tanh())
    D = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 6 * 6, 1))
    return {
        "torch": torch,
        "nn": nn,
        "F": F,
        "fastgan": fastgan,
        "G": G,
        "G_ema": copy.deepcopy(G),
        "D": D,
        "critic": D,
        "real": torch.randn(4, 3, 8, 8),
        "fake": torch.randn(4, 3, 8, 8),
        "x": torch.randn(2, 8, 8, 8),
        "bias": torch.randn(8),
    }


def test_there_is_code_to_run():
    assert CODE.findall((ROOT / "README.md").read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_runs(document, unpatched, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = given()
    for code in CODE.findall(document.read_text()):
        exec(compile(code, str(document), "exec"), names)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not missing


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = {t for document in DOCUMENTS for t in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", document.read_text(), re.M)}
    assert said <= targets, said - targets
