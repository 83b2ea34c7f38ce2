"""The state in which a network is called."""

from typing import NamedTuple

import torch
from torch import nn


class CallState(NamedTuple):
    """What the chains of a forward may depend on."""

    training: bool
    grad: bool
    autocast: bool

    @classmethod
    def of(cls, module: nn.Module) -> "CallState":
        """That of the forward that begins."""
        autocast = torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu")
        return cls(module.training, torch.is_grad_enabled(), autocast)

    def __str__(self) -> str:
        words = ["training" if self.training else "evaluation", "with" if self.grad else "without", "gradients"]
        return " ".join(words + ["and autocast"] * self.autocast)
