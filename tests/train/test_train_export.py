"""`fastgan export`: files that run without fastgan, compared with G before they are written, and their cards."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import names_in, refused

import fastgan
from fastgan.cli import main
from fastgan.train import load
from fastgan.train.afterwards import export
from fastgan.train.afterwards.card import as_code, card
from fastgan.train.trained import read


@pytest.fixture(scope="module")
def pt2(ended, tmp_path_factory):
    """The run's generator as torch.export's file."""
    file = tmp_path_factory.mktemp("exported") / "new" / "model.pt2"
    assert main(["export", str(ended), "--format", "pt2", "--out", str(file)]) == 0
    return file


@pytest.fixture
def fast(monkeypatch):
    """Nothing is exported; the file holds G's name, and running it is running G."""

    def runner(content):
        assert content == b"G"
        return lambda z: (z @ torch.zeros(4, 1024)).view(-1, 1, 32, 32)

    monkeypatch.setattr(export, "_program", lambda G, z_dim: None)
    monkeypatch.setitem(export.FORMATS, "pt2", export.Format(lambda program: b"G", runner))


WITHOUT_FASTGAN = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "fastgan":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nowhere())
import numpy, torch
G = torch.export.load(sys.argv[1]).module()
for n in (0, 1, 5):
    z = torch.linspace(-2, 2, 4 * n).view(n, 4)
    numpy.save(f"{sys.argv[2]}/{n}.npy", G(z).numpy())
assert "fastgan" not in sys.modules
"""


def test_pt2_runs_without_fastgan_for_any_batch(ended, pt2, tmp_path):
    command = [sys.executable, "-I", "-c", WITHOUT_FASTGAN, pt2, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    G = load(ended)
    for n in (1, 5):
        z = torch.linspace(-2, 2, 4 * n).view(n, 4)
        torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / f"{n}.npy")), G(z), rtol=1e-4, atol=1e-6)
    assert np.load(tmp_path / "0.npy").shape == (0, 1, 32, 32)


def test_nothing_of_this_machine_is_in_the_file(ended, pt2):
    content = pt2.read_bytes() + pt2.with_name("model.pt2.md").read_bytes()
    for folder in (Path(fastgan.__file__).parent, Path(torch.__file__).parent, ended):
        assert str(folder).encode() not in content


def test_it_says_how_far_it_is_from_g(ended, tmp_path, capsys, fast, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", 2.0)
    out = tmp_path / "model.pt2"
    assert main(["export", str(ended), "--format", "pt2", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"pt2: {out} (checked: its images differ from G's by ")
    assert "checked: its images differ" in (tmp_path / "model.pt2.md").read_text()
    assert out.read_bytes() == b"G"


@pytest.mark.parametrize("wrong", [0.0, torch.nan])
def test_a_file_that_gives_other_images_is_not_written(ended, tmp_path, capsys, fast, monkeypatch, wrong):
    content, right = export.FORMATS["pt2"]
    monkeypatch.setitem(export.FORMATS, "pt2", export.Format(content, lambda c: lambda z: right(c)(z) + wrong))
    line = refused(capsys, "export", ended, "--format", "pt2", "--out", tmp_path / "model.pt2")
    assert line.startswith("the exported images differ from G's by ")
    assert "expected at most" in line
    assert names_in(tmp_path) == []


@pytest.mark.slow
def test_onnx(ended, tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from onnx.reference import ReferenceEvaluator

    out = tmp_path / "model.onnx"
    assert main(["export", str(ended), "--format", "onnx", "--out", str(out)]) == 0
    said, errors = capsys.readouterr()
    assert said.startswith(f"onnx: {out} (")
    assert ("not checked" in said) == (not export.find_spec("onnxruntime"))
    assert "Error" not in errors
    model = onnx.load(out)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert str(Path(fastgan.__file__).parent).encode() not in out.read_bytes()
    G, evaluator = load(ended), ReferenceEvaluator(model)
    for n in (1, 3):
        z = torch.linspace(-2, 2, 4 * n).view(n, 4)
        (images,) = evaluator.run(["images"], {"z": z.numpy()})
        torch.testing.assert_close(torch.from_numpy(images), G(z), rtol=1e-4, atol=1e-6)


def test_without_onnxruntime_it_says_that_nothing_was_checked(ended, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    monkeypatch.setattr(export, "_program", lambda G, z_dim: None)
    monkeypatch.setitem(export.FORMATS, "onnx", export.FORMATS["onnx"]._replace(content=lambda program: b"x"))
    out = tmp_path / "model.onnx"
    assert main(["export", str(ended), "--format", "onnx", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"onnx: {out} (not checked: onnxruntime is not installed)\n"
    assert "| not checked: onnxruntime is not installed |" in (tmp_path / "model.onnx.md").read_text()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_says_what_to_install(ended, tmp_path, capsys, monkeypatch, package):
    if package == "onnxscript":
        pytest.importorskip("onnx", reason="onnx is not installed")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(export, "_program", lambda G, z_dim: None)
    line = refused(capsys, "export", ended, "--format", "onnx", "--out", tmp_path / "model.onnx")
    assert line == (
        f"export to ONNX needs the package {package}, which is not installed: pip install onnx onnxruntime onnxscript"
        " (in a clone of fastgan: pip install '.[onnx]')"
    )
    assert names_in(tmp_path) == []


def test_what_is_not_accepted(ended, tmp_path, capsys):
    (tmp_path / "x.pt2").mkdir()
    for out in ("x.onnx", "x", "x.pt2"):
        line = refused(capsys, "export", ended, "--format", "pt2", "--out", tmp_path / out)
        assert line == f"out = {str(tmp_path / out)!r}: expected a file that ends in .pt2"
    assert "no such run" in refused(capsys, "export", tmp_path / "y", "--format", "pt2", "--out", tmp_path / "y.pt2")
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(ended), "--format", "pickle", "--out", "x.pickle"])
    assert stopped.value.code == 2
    assert names_in(tmp_path) == ["x.pt2"]


# --- cards ---


def test_the_code_of_a_card_runs(ended, pt2, monkeypatch):
    text = pt2.with_name("model.pt2.md").read_text()
    monkeypatch.chdir(pt2.parent)
    names = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert names["images"].shape == (4, 1, 32, 32)


@pytest.mark.parametrize("kind", export.FORMATS)
def test_a_card_says_what_the_model_is(ended, kind):
    text = card(read(ended), "model", kind, "checked by hand")
    for part in (
        "# `model`",
        "| input `z` | float32 [batch, 4], any batch, drawn from a normal distribution",
        "| output `images` | float32 [batch, 1, 32, 32] in (-1, 1)",
        "| trained on | `digits` |",
        "| steps | 2 |",
        "| this file | checked by hand |",
        f"| made with | fastgan {fastgan.__version__}, torch {torch.__version__}, Python ",
        "| licence | to be stated by ",
        '"width_g": 4,',
    ):
        assert part in text
    assert str(ended) not in text
    compile(text.partition("```python\n")[2].partition("```")[0], "card", "exec")


def test_names_in_a_card_may_hold_anything(ended):
    trained = read(ended)
    odd = "/home/me/| `a` |\n# b\udce9"
    trained.recipe.settings = replace(trained.recipe.settings, data=odd)
    text = card(trained, odd.rpartition("/")[2], "pt2", "")
    assert text.startswith("# ``\\| `a` \\|\\n# b\\udce9``\n")
    assert "| trained on | ``\\| `a` \\|\\n# b\\udce9`` |\n" in text
    assert "/home" not in text
    text.encode()


@pytest.mark.parametrize(("text", "code"), [("a", "`a`"), ("`", "`` ` ``"), ("a``b", "```a``b```")])
def test_code_in_markdown(text, code):
    assert as_code(text) == code


@pytest.mark.parametrize("kind", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_generator_of_classes(kind, tmp_path, capsys, monkeypatch):
    """Takes them beside the latents; the code of its card runs."""
    if kind == "onnx":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    small = ["--steps", 1, "--width", 4, "--width-g", 4, "--z-dim", 4, "--device", "cpu"]
    assert main([*map(str, ["train", "digits", *small, "--out", tmp_path / "run"])]) == 0
    file = tmp_path / f"model.{kind}"
    assert main(["export", str(tmp_path / "run"), "--format", kind, "--out", str(file)]) == 0
    assert "checked: its images differ" in capsys.readouterr().out
    text = file.with_name(f"{file.name}.md").read_text()
    assert "| input `classes` | int64 [batch], from 0 to 9 |" in text
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(text.partition("```python\n")[2].partition("```")[0], namespace)
    z, classes, images = (torch.as_tensor(namespace[name]) for name in ("z", "classes", "images"))
    torch.testing.assert_close(images, load(tmp_path / "run")(z, classes), rtol=1e-4, atol=1e-6)
