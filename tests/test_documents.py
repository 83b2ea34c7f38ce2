"""What the documents say is true: their code and commands run, and their links, targets and figures exist."""

import copy
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import fastgan
from fastgan import cli
from fastgan.bench import report, results
from fastgan.compat import patching

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
MODULES = [
    "fastgan",
    *(f"fastgan.{name}" for name in ("functional", "nn", "nn.utils", "penalty", "optim", "compat.checkpoints")),
]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(document):
    """Pairs of a code block's language and its text."""
    return BLOCK.findall(document.read_text())


def commands(document):
    """Command lines, without the comments after them; the list of changes names options alone."""
    if document.name == "CHANGELOG.md":
        return []
    lines = [line for language, text in blocks(document) if language in ("", "bash") for line in text.splitlines()]
    lines += re.findall(r"`(fastgan [^`]+)`", document.read_text())
    return [shlex.split(line, comments=True) for line in lines if line.startswith("fastgan ")]


def accepted(arguments):
    """Whether the command line takes them; 0 is how `--version` exits."""
    try:
        return cli.main(arguments) == 0
    except SystemExit as done:
        return done.code == 0


@pytest.fixture
def unpatched():
    yield
    for name in list(patching._patched):
        fastgan.unpatch(name)


class Generator(nn.Sequential):
    def __init__(self):
        up = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(64, 3, 3, padding=1))
        super().__init__(nn.Linear(64, 64 * 16 * 16), nn.Unflatten(1, (64, 16, 16)), *up, nn.Tanh())


class Block(nn.Module):
    """Half the size, as BigGAN's discriminator has it."""

    def __init__(self):
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(3, 32, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(32, 32, 3, padding=1))

    def forward(self, x):
        return F.avg_pool2d(self.conv2(F.relu(self.conv1(F.relu(x)))), 2)


class Discriminator(nn.Sequential):
    def __init__(self):
        super().__init__(Block(), nn.Flatten(), spectral_norm(nn.Linear(32 * 16 * 16, 1)))


def train_one_step(G, D):
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), lr=2e-4) for net in (G, D))
    for opt, loss in ((opt_d, lambda fake, real: D(fake.detach()) - D(real)), (opt_g, lambda fake, real: -D(fake))):
        opt.zero_grad()
        loss(G(torch.randn(32, 64)), torch.rand(32, 3, 32, 32)).mean().backward()
        opt.step()


def given() -> dict:
    """What the documents' code takes as given."""
    G, D = Generator(), Discriminator()
    critic = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 30 * 30, 1))
    return {
        "torch": torch,
        "nn": nn,
        "F": F,
        "fastgan": fastgan,
        "G": G,
        "G_ema": copy.deepcopy(G),
        "D": D,
        "critic": critic,
        "real": torch.rand(4, 3, 32, 32),
        "fake": torch.rand(4, 3, 32, 32),
        "x": torch.randn(2, 8, 8, 8),
        "bias": torch.randn(8),
        "train_one_step": train_one_step,
    }


def test_there_is_code_to_run():
    assert any(language == "python" for language, _ in blocks(ROOT / "README.md"))
    assert commands(ROOT / "README.md")


@every_document
def test_languages_are_known(document):
    assert {language for language, _ in blocks(document)} <= {"", "bash", "python", "text", "{eval-rst}"}


@every_document
def test_code_runs_and_prints_what_is_shown(document, unpatched, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    names = given()
    for language, text in blocks(document):
        if language == "python":
            exec(compile(text, str(document), "exec"), names)
        elif language == "text":
            # What is left out is shown as "...".
            printed = capsys.readouterr().out.splitlines()
            assert not [line for line in text.splitlines() if line not in ("", "...") and line not in printed]


@every_document
def test_commands_are_accepted(document, monkeypatch):
    for command in cli.COMMANDS.values():
        monkeypatch.setattr(import_module(command.module), "run", lambda args: 0)
    refused = [arguments for _, *arguments in commands(document) if not accepted(arguments)]
    assert not refused


@every_document
def test_links_lead_somewhere(document):
    missing = [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]
    assert not missing


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = {t for document in DOCUMENTS for t in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", document.read_text(), re.M)}
    assert said <= targets, said - targets


@every_document
def test_tables_are_those_of_the_result_files(document):
    text = document.read_text()
    if report.MARKED.search(text):
        files = sorted((ROOT / "bench" / "results").glob("*.json"))
        assert report.rewrite(text, {file.stem: results.read(file) for file in files}) == text


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.slow
def test_site_builds_with_every_public_name(tmp_path):
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--conf-dir", "docs"]
    done = subprocess.run([*command, ".", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    documented = set(re.findall(r'id="(fastgan[\w.]*)"', (tmp_path / "docs" / "reference.html").read_text()))
    public = {f"{module}.{name}" for module in MODULES for name in import_module(module).__all__}
    modules = {name for name in public if name in sys.modules}
    assert not public - modules - documented
    assert (tmp_path / "index.html").exists()
