"""What a run has trained: its generator, made from a checkpoint alone."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fastgan.train import checkpoint
from fastgan.train.device import pick_device
from fastgan.train.folder import CHECKPOINT
from fastgan.train.recipe import Recipe, find, name_of, names


class Trained(NamedTuple):
    """A generator in eval mode, its recipe with the run's settings, the step that it is of, and its file."""

    G: nn.Module
    recipe: Recipe
    step: int
    checkpoint: Path


def load(run: str | Path, device: str | torch.device = "cpu", *, recipe: type[Recipe] | None = None) -> nn.Module:
    """The generator that a run has trained: the moving average of its weights, in eval mode, without gradients.

    Neither the run's data nor its optimizers are read, and torch's random state is left as it is.

    Args:
        run: the folder of a run, or a checkpoint.
        device: where to: cpu, cuda, cuda:1, ... or auto, which takes a GPU where there is one.
        recipe: a recipe of your own that the run was trained by; None for those of fastgan.

    Returns:
        G, float32. Shapes, in the recipes of fastgan: z [N, G.z_dim], drawn from a normal distribution, and classes
        int64 [N] where the recipe has them, -> [N, channels, H, W] in (-1, 1).

    Raises:
        FileNotFoundError: there is no such run, or no checkpoint in it yet.
        ValueError: the file is damaged or no checkpoint of fastgan, or there is no such device.
    """
    return read(run, device, recipe).G


def read(run: str | Path, device: str | torch.device = "cpu", kind: type[Recipe] | None = None) -> Trained:
    """`load`, with what else is known of the generator."""
    path, place = checkpoint_of(Path(run)), pick_device(str(device))
    tensors, record = checkpoint.load(path, under="ema")
    try:
        recipe, G = generator_of(record, kind)
        checkpoint.restore_module("ema", G, tensors)
        checkpoint.check_finite(tensors)
    except (ValueError, FloatingPointError) as error:
        raise ValueError(f"{path}: {error}") from error
    G.to(place, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Trained(G, recipe, record["step"], path)


def generator_of(record: dict[str, Any], kind: type[Recipe] | None = None) -> tuple[Recipe, nn.Module]:
    """The recipe in a checkpoint's record, and a generator as its settings say, the weights not yet loaded."""
    if type(record.get("step")) is not int:
        raise ValueError(f"step is {record.get('step')!r}: expected an integer")
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, Recipe)):
        raise TypeError(f"recipe must be a subclass of fastgan.train.Recipe, got {type(kind).__name__} {kind!r:.60}")
    name = record.get("recipe")
    if kind is None and name not in names():
        raise ValueError(f"recipe is {name!r}: expected one of {', '.join(names())}, or its class as recipe=")
    kind = find(name) if kind is None else kind
    if name != name_of(kind):
        raise ValueError(f"recipe is {name!r}: {name_of(kind)!r} has not trained it")
    recipe = kind(kind.Settings.from_json(record.get("config")))
    recipe.classes = record.get("classes", 0)
    if type(recipe.classes) is not int or recipe.classes < 0:
        raise ValueError(f"classes is {recipe.classes!r}: expected an integer")
    with torch.random.fork_rng(devices=[]):
        return recipe, recipe.networks()[0]


def checkpoint_of(run: Path) -> Path:
    """The checkpoint in a run's folder; another path is taken to be one. Raises FileNotFoundError."""
    if not run.exists():
        raise FileNotFoundError(f"run = {str(run)!r}: no such run: expected the folder of one, or a checkpoint")
    if run.is_dir() and not (run / CHECKPOINT).exists():
        raise FileNotFoundError(f"run = {str(run)!r}: there is no {CHECKPOINT} in this folder: expected that of a run")
    return run / CHECKPOINT if run.is_dir() else run
