"""The spectrally normalised layers of a network, whatever wrote them: where W, u and v are, and how to intercept one.

A *style* is one way of writing spectral norm. Each is a class, torch's and ours here, those of codebases in
mixins.py; its objects, the layers, have these members:

    style, path, name, module       what it is called, and where it is
    training                        whether a read of the weight changes its buffers
    tensors(), obstacle             W and the buffers as they are now, such as u and v; or None and the reason
    dim, options(dtype)             the dimension of the rows, and the op's options as they are now
    vectors(tensors)                u [m] and v [n] as the op takes them
    buffers(tensors, u, v, sigma)   what a read makes of the buffers, from what the op returns
    attach(slot), detach(), slot()  let `slot.take(tensors, training)` compute W_hat; for None the layer does it itself

Attaching replaces one method of one object. Hooks, parametrizations, buffers and keys of the state_dict stay as they
are. What a layer was attached to may be removed or replaced later: then it has no tensors, and is still detached.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm as TorchHook

from fastgan.mix_in import MixIn, mix_in, take_out
from fastgan.ops.spectral_norm import Options
from fastgan.spectral.mixins import MixinLayer, mixin_layers
from fastgan.spectral.parametrization import SpectralNorm, refusal
from fastgan.spectral.slot import Slot, Tensors

REMOVED = "it was removed, or replaced, since"
_SLOT = "_fastgan_slot"


class Skipped(NamedTuple):
    """A spectral norm that is left to itself, and why."""

    path: str
    style: str
    reason: str


class _TorchLayer:
    """What torch's own styles share: buffers u and v, and an object `settings` with torch's names."""

    u_first: bool
    settings: Any

    @property
    def dim(self) -> int:
        return self.settings.dim

    def options(self, dtype: torch.dtype) -> Options:
        return Options(self.settings.n_power_iterations, self.settings.eps, self.training, self.u_first, dtype)

    def vectors(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        return tensors[1], tensors[2]

    def buffers(self, tensors: Tensors, u: Tensor, v: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        return u, v


# --- torch.nn.utils.spectral_norm: a forward pre-hook sets the weight before every forward of its module ---


class HookLayer(_TorchLayer):
    """A weight that torch's hook normalises."""

    style = "torch hook"
    u_first = False

    def __init__(self, path: str, module: nn.Module, hook: TorchHook):
        self.name = hook.name
        self.path = f"{path}.{self.name}".lstrip(".")
        self.module = module
        self.settings = hook

    @property
    def training(self) -> bool:
        return self.module.training

    def tensors(self) -> Tensors | None:
        return _hook_tensors(self.module, self.name) if self._is_there() else None

    @property
    def obstacle(self) -> str:
        if not self._is_there():
            return REMOVED
        return "its _orig is not a parameter, or its _u and _v are not buffers"

    def attach(self, slot: Slot) -> None:
        self.settings.compute_weight = _ComputeWeight(self.settings, slot)

    def detach(self) -> None:
        vars(self.settings).pop("compute_weight", None)

    def slot(self) -> Slot | None:
        shadow = vars(self.settings).get("compute_weight")
        return shadow.slot if isinstance(shadow, _ComputeWeight) else None

    def _is_there(self) -> bool:
        return any(hook is self.settings for hook in self.module._forward_pre_hooks.values())


class _ComputeWeight:
    """Shadows one hook's method. It holds no module, so that a deep copy of a part of a network stays a part."""

    def __init__(self, hook: TorchHook, slot: Slot):
        self.hook = hook
        self.slot = slot

    def __call__(self, module: nn.Module, do_power_iteration: bool) -> Tensor:
        tensors = _hook_tensors(module, self.hook.name)
        weight_hat = None if tensors is None else self.slot.take(tensors, do_power_iteration)
        if weight_hat is None:
            return type(self.hook).compute_weight(self.hook, module, do_power_iteration)
        return weight_hat


def _hook_tensors(module: nn.Module, name: str) -> Tensors | None:
    buffers = module._buffers
    return _complete(module._parameters.get(name + "_orig"), buffers.get(name + "_u"), buffers.get(name + "_v"))


def _hook_layers(path: str, module: nn.Module) -> Iterator[HookLayer]:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, TorchHook):
            yield HookLayer(path, module, hook)


# --- torch.nn.utils.parametrizations.spectral_norm, parametrization.py: computed at a read ---


class ParametrizationLayer(_TorchLayer):
    """A weight that a parametrization normalises.

    Args:
        path, module, name: where it is.
        chain: the parametrizations of the weight.
        parametrization: the one of them that normalises.
    """

    u_first = True

    def __init__(
        self, path: str, module: nn.Module, name: str, chain: ParametrizationList, parametrization: _SpectralNorm
    ):
        self.style = "fastgan" if isinstance(parametrization, SpectralNorm) else "torch parametrization"
        self.name = name
        self.path = f"{path}.{self.name}".lstrip(".")
        self.module = module
        self.chain = chain
        self.settings = parametrization

    @property
    def training(self) -> bool:
        return self.settings.training

    def tensors(self) -> Tensors | None:
        if not self._is_there() or self.chain._modules.get("0") is not self.settings:
            return None
        return _complete(self.chain._parameters.get("original"), *_vectors(self.settings))

    @property
    def obstacle(self) -> str:
        if not self._is_there():
            return REMOVED
        if "_u" not in self.settings._buffers:
            return "it normalises a vector"
        return "another parametrization comes before it, or its original is not a parameter"

    def attach(self, slot: Slot) -> None:
        vars(self.chain)[_SLOT] = slot
        mix_in(self.chain, _GroupedChain)

    def detach(self) -> None:
        vars(self.chain).pop(_SLOT, None)
        take_out(self.chain, _GroupedChain)

    def slot(self) -> Slot | None:
        return vars(self.chain).get(_SLOT)

    def _is_there(self) -> bool:
        chains = self.module._modules.get("parametrizations")
        return chains is not None and chains._modules.get(self.name) is self.chain


class _GroupedChain(MixIn):
    """What computes one weight from its original: torch's own way there takes longer than a small layer."""

    def forward(self) -> Tensor:
        slot, original = self.__dict__.get(_SLOT), self._parameters.get("original")
        if slot is None or original is None:  # a replica of nn.DataParallel has no parameters
            return super().forward()
        modules = self._modules
        first = modules["0"]
        weight = slot.take((original, *_vectors(first)), first.training)
        if weight is None:
            weight = first(original)
        if len(modules) > 1:
            for parametrization in list(modules.values())[1:]:
                weight = parametrization(weight)
        return weight


def _vectors(parametrization: _SpectralNorm) -> tuple[Tensor | None, Tensor | None]:
    return parametrization._buffers.get("_u"), parametrization._buffers.get("_v")


def _parametrization_layers(path: str, module: nn.Module) -> Iterator[ParametrizationLayer]:
    for name, chain in getattr(module, "parametrizations", {}).items():
        for parametrization in chain:
            if isinstance(parametrization, _SpectralNorm):
                yield ParametrizationLayer(path, module, name, chain, parametrization)


def _complete(weight: Tensor | None, u: Tensor | None, v: Tensor | None) -> Tensors | None:
    return None if weight is None or u is None or v is None else (weight, u, v)


# --- all of them ---

Layer = HookLayer | ParametrizationLayer | MixinLayer
STYLES = (_hook_layers, _parametrization_layers, mixin_layers)


def every_layer(model: nn.Module) -> Iterator[Layer]:
    """All of a network."""
    for path, module in model.named_modules():
        for style in STYLES:
            yield from style(path, module)


def obstacle(layer: Layer) -> str:
    """Why the op cannot compute a layer as it is now; empty if it can."""
    tensors = layer.tensors()
    return layer.obstacle if tensors is None else refusal(tensors[0], *layer.vectors(tensors), layer.dim)


def find(model: nn.Module) -> tuple[list[Layer], list[Skipped]]:
    """The layers of a network that the op can compute, each once, and those that it cannot."""
    layers: list[Layer] = []
    skipped: list[Skipped] = []
    seen: set[int] = set()
    for layer in every_layer(model):
        reason = obstacle(layer)
        buffers = set() if reason else set(map(id, layer.tensors()[1:]))
        if not seen.isdisjoint(buffers):
            reason = "another layer has the same u or v"
        if not reason and isinstance(layer, MixinLayer):
            reason = layer.difference()
        if reason:
            skipped.append(Skipped(layer.path, layer.style, reason))
        else:
            layers.append(layer)
            seen |= buffers
    return layers, skipped
