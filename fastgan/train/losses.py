"""Losses that are watched without waiting for the device."""

from collections.abc import Mapping

import torch
from torch import Tensor


class LossWatch:
    """Remembers, on the device, the first step of which a loss was not finite."""

    def __init__(self, device: torch.device):
        self._first = torch.zeros((), dtype=torch.int64, device=device)  # 0: none yet

    def note(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Look at the losses of `step`, which counts from 1."""
        bad = torch.stack(list(losses.values())).isfinite().all().logical_not_()
        self._first.masked_fill_(bad & (self._first == 0), step)

    def check(self, values: Mapping[str, float]) -> None:
        """Wait for the device. Raises FloatingPointError naming the step, and the last losses, which are `values`."""
        if first := int(self._first):
            told = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            raise FloatingPointError(f"losses are not finite since step {first} ({told})")
