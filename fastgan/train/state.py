"""Everything that training changes: made by a recipe, advanced step by step, saved and restored."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.optim import warmed_up_decay
from fastgan.penalty import penalized_loss
from fastgan.train import checkpoint, plain
from fastgan.train.data import digest
from fastgan.train.device import pick_device
from fastgan.train.recipe import Data, Recipe, name_of
from fastgan.train.sampler import Sampler
from fastgan.train.step import PENALTIES, train_step

NETWORKS = ("G", "D", "ema")
OPTIMIZERS = ("opt_g", "opt_d")


class TrainState:
    """Networks, G's moving average, optimizers, sampler, the count of steps, and torch's global random state."""

    def __init__(self, recipe: Recipe, data: Data, dtype: torch.dtype = torch.float32):
        """Seeds torch's global generator. dtype: of networks and real batches."""
        self.recipe, self.config = recipe, recipe.settings
        config = self.config
        torch.manual_seed(config.seed)
        self.device, self.dtype, self.step = pick_device(config.device), dtype, 0
        self.data = tuple(t.to(self.device) for t in data.train)
        self._digest = digest(data.train, data.classes)
        self.sampler = Sampler(len(data.train[0]), config.batch, config.seed, self.device)
        G, D = recipe.networks()
        # Channels last is the layout in which convolutions are fastest. D keeps plain weights: its input decides.
        self.G = G.to(self.device, dtype, memory_format=torch.channels_last)
        self.D = D.to(self.device, dtype)
        # In half precision an average hardly moves.
        self.ema = copy.deepcopy(self.G).to(torch.promote_types(dtype, torch.float32)).requires_grad_(False)
        betas = (config.beta1, config.beta2)
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=config.lr_g, betas=betas)
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=config.lr_d, betas=betas)

    def advance(self) -> dict[str, Tensor]:
        """Train one step on the next real batches. Returns the losses, scalars on the device."""
        config = self.config
        decay = 1 - (1 - config.lr_decay) * min(self.step / config.steps, 1)
        self.opt_g.param_groups[0]["lr"], self.opt_d.param_groups[0]["lr"] = decay * config.lr_g, decay * config.lr_d
        drawn = [next(self.sampler) for _ in range(config.n_critic)]
        batches = [self.recipe.batch(tuple(t[chosen] for t in self.data), self.dtype) for chosen in drawn]
        losses = train_step(
            self.G,
            self.D,
            self.ema,
            self.opt_g,
            self.opt_d,
            batches,
            latents=lambda real: self.recipe.latents(len(real)).to(real),
            loss_d=self.recipe.loss_d,
            loss_g=self.recipe.loss_g,
            ema_decay=warmed_up_decay(config.ema_decay, self.step),
            penalties=PENALTIES[config.penalty](config.penalty_weight),
            penalty_every=config.penalty_every,
            updates=self.step * config.n_critic,
            precision=config.precision,
            penalized=plain.penalized_loss if config.plain else penalized_loss,
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
        name, classes = name_of(type(self.recipe)), self.recipe.classes
        record = {"recipe": name, "classes": classes, "step": self.step, "data": self._digest, "config": config}
        checkpoint.save(path, tensors, {**record, "sampler": self.sampler.state_dict()})

    def restore(self, path: Path) -> None:
        """Continue where `path` was saved.

        Raises ValueError naming the part that does not fit this state's recipe, data or settings.
        """
        tensors, record = checkpoint.load(path)
        try:
            self._restore(tensors, record)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        if type(record.get("step")) is not int or record["step"] < 1:
            raise ValueError(f"step is {record.get('step')!r}: expected a positive integer")
        if (name := name_of(type(self.recipe))) != record.get("recipe"):
            raise ValueError(f"recipe is {record.get('recipe')!r}: {name!r} does not continue it")
        self.config.check_continues(record.get("config"))
        if record.get("data") != self._digest:
            raise ValueError(f"data = {self.config.data!r}: other samples, or another order, than this run began with")
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
