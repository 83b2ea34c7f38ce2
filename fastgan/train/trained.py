"""What a run has trained: its generator, made from a checkpoint alone."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from fastgan.train import checkpoint
from fastgan.train.config import Config
from fastgan.train.device import pick_device
from fastgan.train.folder import CHECKPOINT
from fastgan.train.models import Generator


class Trained(NamedTuple):
    """A generator in eval mode, the settings of its run, the step that it is of, and the file that it comes from."""

    G: nn.Module
    config: Config
    step: int
    checkpoint: Path


def load(run: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The generator that a run has trained: the moving average of its weights, in eval mode, without gradients.

    Neither the run's data nor its optimizers are read, and torch's random state is left as it is.

    Args:
        run: the folder of a run, or a checkpoint.
        device: where to: cpu, cuda, cuda:1, ... or auto, which takes a GPU where there is one.

    Returns:
        G, float32. Shapes: z [N, G.z_dim], drawn from a normal distribution, -> [N, channels, 32, 32] in (-1, 1).

    Raises:
        FileNotFoundError: there is no such run, or no checkpoint in it yet.
        ValueError: the file is damaged or no checkpoint of fastgan, or there is no such device.
    """
    return read(run, device).G


def read(run: str | Path, device: str | torch.device = "cpu") -> Trained:
    """`load`, with what else is known of the generator."""
    path, place = checkpoint_of(Path(run)), pick_device(str(device))
    tensors, record = checkpoint.load(path, under="ema")
    try:
        config, G = generator_of(record)
        checkpoint.restore_module("ema", G, tensors)
        checkpoint.check_finite(tensors)
    except (ValueError, FloatingPointError) as error:
        raise ValueError(f"{path}: {error}") from error
    G.to(place, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Trained(G, config, record["step"], path)


def generator_of(record: dict[str, Any]) -> tuple[Config, nn.Module]:
    """The settings in a checkpoint's record, and a generator as they say, its weights not yet loaded."""
    if type(record.get("step")) is not int:
        raise ValueError(f"step is {record.get('step')!r}: expected an integer")
    config = Config.from_json(record.get("config"))
    with torch.random.fork_rng(devices=[]):
        return config, Generator(config.z_dim, config.width_g, config.channels, config.blocks)


def checkpoint_of(run: Path) -> Path:
    """The checkpoint in a run's folder; another path is taken to be one. Raises FileNotFoundError."""
    if not run.exists():
        raise FileNotFoundError(f"run = {str(run)!r}: no such run: expected the folder of one, or a checkpoint")
    if run.is_dir() and not (run / CHECKPOINT).exists():
        raise FileNotFoundError(f"run = {str(run)!r}: there is no {CHECKPOINT} in this folder: expected that of a run")
    return run / CHECKPOINT if run.is_dir() else run
