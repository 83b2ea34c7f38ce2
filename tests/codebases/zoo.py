"""What an entry is: a network, its inputs, and whether it is a critic, whose image gets a gradient."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from samples import seeded
from torch import Tensor, nn


class Codebase(NamedTuple):
    """A network and what it takes."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    labels: int
    critic: bool

    def network(self, seed: int = 0) -> nn.Module:
        """With the weights of this seed."""
        torch.manual_seed(seed)
        network = self.build()
        statistics = {name: b.clone() for name, b in network.named_buffers() if "running" in name or "tracked" in name}
        with torch.no_grad():
            # Spectral norm begins with random vectors, for which sigma may be so small that rounding is all there is.
            for i in range(3):
                network(*self.inputs(seed=20 + i))
            for name, before in statistics.items():
                network.get_buffer(name).copy_(before)
        return network

    def inputs(self, n: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Images or latents, and labels if it takes any."""
        x = torch.randn(n, *self.shape, generator=seeded(seed), dtype=torch.get_default_dtype())
        return (x, torch.arange(n) % self.labels) if self.labels else (x,)


CODEBASES: dict[str, Codebase] = {}


def codebase(name: str, shape: tuple[int, ...], *, labels: int = 0, critic: bool = False):
    """Enter what builds a network."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in CODEBASES, name
        CODEBASES[name] = Codebase(build, shape, labels, critic)
        return build

    return add
