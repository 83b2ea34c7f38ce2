"""`fastgan.train.load`: the generator of a run, from its checkpoint alone."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from training_runs import command, state_of

from fastgan.train import checkpoint, find, load
from fastgan.train.data import Images
from fastgan.train.device import pick_device


@pytest.fixture
def stored(ended):
    """(tensors, record) of the run's checkpoint."""
    return checkpoint.load(ended / "checkpoint.safetensors")


@pytest.mark.parametrize("kind", [str, type(None)])
def test_it_is_the_moving_average_in_eval_mode(ended, stored, kind):
    before = torch.get_rng_state()
    G = load(str(ended) if kind is str else ended / "checkpoint.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in G.modules())
    assert not any(p.requires_grad for p in G.parameters())
    for name, tensor in G.state_dict().items():
        assert torch.equal(tensor, stored[0][f"ema.{name}"])
        assert tensor.device.type == "cpu"
    images = G(torch.randn(3, G.z_dim))
    assert images.shape == (3, 1, 32, 32)
    assert images.abs().max() < 1


def test_it_makes_the_images_of_the_training(tiny, images, tmp_path):
    state = state_of(replace(tiny, plain=True, channels=3), Images(images.pixels.repeat(1, 3, 1, 1)))
    state.advance()
    state.save(tmp_path / "c")
    z = torch.randn(2, tiny.z_dim)
    assert torch.equal(load(tmp_path / "c")(z), state.ema.eval()(z))


def test_auto_takes_what_training_takes(ended):
    assert next(load(ended, "auto").parameters()).device.type == pick_device("auto").type


def test_nothing_else_is_read(stored, tmp_path, monkeypatch):
    tensors, record = stored
    # nothing that `load` reads may be like this
    unread = {**tensors, "D.linear.bias": torch.full((1,), torch.nan)}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "check_finite", lambda tensors: None)
        checkpoint.save(tmp_path / "unread", unread, record)
    load(tmp_path / "unread")
    of_ema = {name: tensor for name, tensor in tensors.items() if name.startswith("ema.")}
    checkpoint.save(tmp_path / "whole", tensors, record)
    assert checkpoint.load(tmp_path / "whole", under="ema")[0].keys() == of_ema.keys() < tensors.keys()
    record = {"recipe": "images", "step": 1, "config": {**record["config"], "data": "moved away"}}
    checkpoint.save(tmp_path / "part", of_ema, record)
    assert load(tmp_path / "part").state_dict().keys() == {name.removeprefix("ema.") for name in of_ema}


def test_where_there_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run = '.*nowhere': no such run: expected the folder of one, or a"):
        load(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"there is no checkpoint\.safetensors in this folder: expected that of"
    ):
        load(tmp_path)


def test_where_there_is_no_such_device(ended):
    with pytest.raises(ValueError, match="device = 'abacus'"):
        load(ended, "abacus")


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "junk").write_bytes(b"junk" * 50)
    with pytest.raises(ValueError, match=r"junk: malformed .* expected a checkpoint written by fastgan train"):
        load(tmp_path / "junk")
    save_file({"ema.x": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(ValueError, match="foreign: a safetensors file without a 'fastgan' record"):
        load(tmp_path / "foreign")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, record: record.pop("step"), "step is None: expected an integer"),
        (lambda tensors, record: record.pop("config"), "settings are None: expected an object"),
        (lambda tensors, record: record["config"].update(width_g=0), "width_g = 0: expected at least 1"),
        (lambda tensors, record: record["config"].update(z_dim=5), "tensor 'ema.linear.weight' is .*: expected"),
        (lambda tensors, record: tensors.pop("ema.to_image.bias"), "tensor 'ema.to_image.bias' is missing: expected"),
        (lambda tensors, record: tensors.update({"ema.x": torch.ones(1)}), "unexpected tensor 'ema.x'"),
    ],
)
def test_what_is_wrong_in_a_checkpoint_is_named(stored, tmp_path, change, message):
    change(*stored)
    checkpoint.save(tmp_path / "bad", *stored)
    with pytest.raises(ValueError, match=f"bad: {message}"):
        load(tmp_path / "bad")


def test_weights_that_are_not_finite(stored, tmp_path, monkeypatch):
    tensors, record = stored
    tensors["ema.to_image.bias"].fill_(torch.nan)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "check_finite", lambda tensors: None)
        checkpoint.save(tmp_path / "bad", tensors, record)
    with pytest.raises(ValueError, match=r"bad: tensor 'ema\.to_image\.bias' is not finite"):
        load(tmp_path / "bad")


def test_of_a_recipe_of_ones_own(own, tmp_path):
    flags = ["--steps", 2, "--batch", 4, "--device", "cpu", "--out", tmp_path / "run"]
    assert command(*flags, recipe=str(own)) == 0
    with pytest.raises(ValueError, match="recipe is 'circle': expected one of digits, images, or its class as recipe="):
        load(tmp_path / "run")
    with pytest.raises(ValueError, match="recipe is 'circle': 'images' has not trained it"):
        load(tmp_path / "run", recipe=find("images"))
    assert load(tmp_path / "run", recipe=find(str(own)))(torch.randn(3, 2)).shape == (3, 2)


@pytest.mark.parametrize("recipe", ["images", find("images")(find("images").Settings())], ids=type)
def test_a_recipe_that_is_no_class(ended, recipe):
    with pytest.raises(TypeError, match=r"recipe must be a subclass of fastgan\.train\.Recipe, got "):
        load(ended, recipe=recipe)
