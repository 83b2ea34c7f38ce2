"""Everything that training changes: built from a config, advanced step by step, saved and restored."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.optim import warmed_up_decay
from fastgan.train import checkpoint
from fastgan.train.config import Config
from fastgan.train.data import Images, digest, load_images, to_real
from fastgan.train.device import pick_device
from fastgan.train.models import IMAGE_SIZE, SPECTRAL_NORMS, Discriminator, Generator
from fastgan.train.sampler import Sampler
from fastgan.train.step import PENALTIES, train_step

NETWORKS = ("G", "D", "ema")
OPTIMIZERS = ("opt_g", "opt_d")


def images_of(config: Config) -> Images:
    """The data of a run. Raises ValueError naming what cannot be read, FileNotFoundError."""
    return load_images(
        config.data,
        config.channels,
        IMAGE_SIZE,
        crop=config.crop,
        allow_enlarging=config.allow_enlarging,
        skip_corrupt=config.skip_corrupt,
        max_pixels=config.max_pixels,
    )


class TrainState:
    """Networks, G's moving average, optimizers, sampler, the count of steps, and torch's global random state."""

    def __init__(self, config: Config, images: Images, dtype: torch.dtype = torch.float32):
        """Seeds torch's global generator. images: of `images_of(config)`; dtype: of networks and real batches."""
        torch.manual_seed(config.seed)
        self.config, self.device, self.dtype, self.step = config, pick_device(config.device), dtype, 0
        self.images, self._data = images.pixels.to(self.device), digest(images)
        self.sampler = Sampler(len(images), config.batch, config.seed, self.device)
        # Channels last is the layout in which convolutions are fastest. D keeps plain weights: its input decides.
        self.G = Generator(config.z_dim, config.width_g, config.channels, config.blocks)
        self.G.to(self.device, dtype, memory_format=torch.channels_last)
        self.D = Discriminator(config.width, config.channels, config.blocks).to(self.device, dtype)
        SPECTRAL_NORMS[config.spectral_norm](self.D)
        # In half precision an average hardly moves.
        self.ema = copy.deepcopy(self.G).to(torch.promote_types(dtype, torch.float32)).requires_grad_(False)
        betas = (config.beta1, config.beta2)
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=config.lr_g, betas=betas)
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=config.lr_d, betas=betas)

    def advance(self) -> dict[str, Tensor]:
        """Train one step on the next real batches. Returns the losses, scalars on the device."""
        config = self.config
        reals = [to_real(self.images[next(self.sampler)], self.dtype) for _ in range(config.n_critic)]
        losses = train_step(
            self.G,
            self.D,
            self.ema,
            self.opt_g,
            self.opt_d,
            reals,
            z_dim=config.z_dim,
            ema_decay=warmed_up_decay(config.ema_decay, self.step),
            penalties=PENALTIES[config.penalty](config.penalty_weight),
            penalty_every=config.penalty_every,
            updates=self.step * config.n_critic,
        )
        self.step += 1
        return losses

    def save(self, path: Path) -> None:
        """Write all of it, and the config, to one file. Raises FloatingPointError when any of it is not finite."""
        tensors = self._random_state()
        for name in NETWORKS:
            tensors |= checkpoint.module_tensors(name, getattr(self, name))
        for name in OPTIMIZERS:
            tensors |= checkpoint.optimizer_tensors(name, getattr(self, name))
        # Without `out`: where the file is stored decides where its run goes on.
        config = {name: value for name, value in self.config.to_json().items() if name != "out"}
        record = {"step": self.step, "sampler": self.sampler.state_dict(), "data": self._data, "config": config}
        checkpoint.save(path, tensors, record)

    def restore(self, path: Path) -> None:
        """Continue where `path` was saved.

        Raises ValueError naming the part that does not fit this state's images or config.
        """
        tensors, record = checkpoint.load(path)
        try:
            self._restore(tensors, record)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        if type(record.get("step")) is not int or record["step"] < 1:
            raise ValueError(f"step is {record.get('step')!r}: expected a positive integer")
        self.config.check_continues(record.get("config"))
        if record.get("data") != self._data:
            raise ValueError(
                f"data = {self.config.data!r}: other images or labels, or another order, than this run began with"
            )
        self.step = record["step"]
        self.sampler.load_state_dict(record.get("sampler"))
        for name in NETWORKS:
            checkpoint.restore_module(name, getattr(self, name), tensors)
        for name in OPTIMIZERS:
            checkpoint.restore_optimizer(name, getattr(self, name), tensors)
        for name, expected in self._random_state().items():
            checkpoint.check_tensor(name, tensors.get(name), expected)
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)

    def _random_state(self) -> dict[str, Tensor]:
        state = {"random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return state
