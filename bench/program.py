"""A published codebase as a program to be measured and tested: its networks and steps, patched and untouched."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import fastgan

Steps = dict[str, tuple[nn.Module | None, Callable[[], Any]]]
NO_TORCHVISION = {"torchvision": {}, "torchvision.transforms": {}}  # what is not needed of it


class Program(NamedTuple):
    """A codebase at work.

    Args:
        networks: by name.
        steps: by name, the network that it updates, None for a forward alone; and what accumulates its gradients and
            returns tensors.
        modules: the codebase's, which are not in `sys.modules`.
        family: what it is to be patched as; None if it is to run as it is.
    """

    networks: dict[str, nn.Module]
    steps: Steps
    modules: dict[str, ModuleType]
    family: str | None

    @contextmanager
    def patched(self) -> Iterator[None]:
        """A context in which these modules, and no other build of them, are patched; it is needed to run."""
        if self.family is None:
            yield
            return
        sys.modules.update(self.modules)
        fastgan.patch(self.family)
        try:
            yield
        finally:
            fastgan.unpatch(self.family)
            for name in self.modules:
                sys.modules.pop(name, None)

    def state(self) -> list[dict[str, Tensor]]:
        """A copy of all parameters and buffers, to be put back by `restore`."""
        return [{key: t.clone() for key, t in net.state_dict().items()} for net in self.networks.values()]

    def restore(self, state: list[dict[str, Tensor]]) -> None:
        """Put them back."""
        for network, tensors in zip(self.networks.values(), state, strict=True):
            network.load_state_dict(tensors)

    def run(self, step: str) -> list[Tensor]:
        """What a step returns, and the gradients that it leaves; the same random values every time."""
        updated, accumulate = self.steps[step]
        for network in self.networks.values():
            network.requires_grad_(network is updated)
            network.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        out = accumulate()
        outputs = [t.detach() for t in (out if isinstance(out, (tuple, list)) else [out])]
        # A gradient that nothing reached is zero.
        parameters = () if updated is None else updated.parameters()
        return outputs + [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


class SameDraws(TorchFunctionMode):
    """A mode in which random numbers in float64 are those that float32 would have got."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function is torch.randn_like:
            return torch.randn(args[0].shape).to(args[0])
        if function is Tensor.normal_:
            return args[0].copy_(torch.randn(args[0].shape))
        return function(*args, **(kwargs or {}))


class Codebase(NamedTuple):
    """How a codebase is built.

    Args:
        build: (dtype, **sizes) -> networks and steps, with its modules to be found.
        family: of `fastgan.patch`; None where there is nothing to patch.
        doubles: whether it computes in float64 if its parameters do.
        packages: see `importable`.
        absent: the same.
    """

    build: Callable[..., tuple[dict[str, nn.Module], Steps]]
    family: str | None = None
    doubles: bool = True
    packages: Mapping[str, Mapping[str, Any]] = {}
    absent: Mapping[str, Mapping[str, Any]] = {}


# --- for the files in programs/ ---


def prepared(dtype: torch.dtype, *networks: nn.Module) -> None:
    """Networks in this dtype, with random values where parameters are zero: a gradient that is zero shows nothing."""
    for network in networks:
        for parameter in network.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        network.to(dtype)


def random_images(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random images, from -1 to 1."""
    return (torch.rand(shape) * 2 - 1).to(dtype)


def random_latents(dtype: torch.dtype, *shape: int) -> Tensor:
    """Random latents."""
    return torch.randn(shape).to(dtype)


def differentiated(loss: Tensor) -> Tensor:
    """The loss, whose backward has run."""
    loss.backward()
    return loss
