"""The endless seeded order in which training sees its images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Sampler:
    """Endless batches of indices: epoch after epoch, each a fresh permutation.

    The permutation of an epoch is a function of (seed, epoch), so the whole state is two integers. Indices are on
    `device`, that of the images: an epoch's are sent there once, and no batch waits for them.
    """

    def __init__(self, size: int, batch: int, seed: int, device: torch.device | str = "cpu"):
        self.size, self.batch, self.seed, self.device = size, batch, seed, torch.device(device)
        self.epoch, self.position = 0, 0
        self._order = self._permutation()

    def _permutation(self) -> Tensor:
        order = torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(self.size))
        if self.device.type == "cuda":  # from pinned memory the copy does not wait for the device
            order = order.pin_memory()
        return order.to(self.device, non_blocking=True)

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """int64 [batch]; a batch that an epoch's end cuts is filled from the next epoch."""
        parts, missing = [], self.batch
        while missing:
            if self.position == self.size:
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._permutation()
            part = self._order[self.position : self.position + missing]
            self.position, missing = self.position + len(part), missing - len(part)
            parts.append(part)
        return torch.cat(parts)

    def state_dict(self) -> dict[str, int]:
        """The state, and the size and seed to which it belongs."""
        return {"size": self.size, "seed": self.seed, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Any) -> None:
        """Continue where `state` was taken. Raises ValueError when it belongs to another data set or seed."""
        if not isinstance(state, dict):
            raise ValueError(f"sampler is {state!r}: expected an object")
        for key in ("size", "seed"):
            if state.get(key) != getattr(self, key):
                raise ValueError(f"sampler's {key} is {state.get(key)!r}: this run has {getattr(self, key)}")
        epoch, position = state.get("epoch"), state.get("position")
        if type(epoch) is not int or epoch < 0 or type(position) is not int or not 0 <= position <= self.size:
            raise ValueError(f"sampler's epoch {epoch!r}, position {position!r}: expected integers within the data set")
        self.epoch, self.position = epoch, position
        self._order = self._permutation()
