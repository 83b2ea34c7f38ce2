"""Spectral norm as BigGAN and mimicry write it: a mixin whose method computes the weight in the layer's forward.

They are known by their members, since neither is a package that could be imported; and as a member of the same name may
do something else, what a layer's own method computes is compared with the op before that takes its place.
"""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgan.mix_in import MixIn, mix_in, take_out
from fastgan.ops.spectral_norm import Options
from fastgan.spectral.parametrization import normalize, refusal
from fastgan.spectral.slot import Slot, Tensors


class Mixin(NamedTuple):
    """A codebase's mixin: the names of its method, its buffers u [1, m] and sigma [1], and its number of iterations."""

    style: str
    method: str
    u: str
    sigma: str
    iterations: str
    iterates_in_eval: bool  # from the kept u every time: else it does one iteration there
    fixed: Mapping[str, Any]  # what other attributes must be


BIGGAN = Mixin("BigGAN", "W_", "u0", "sv0", "num_itrs", False, {"num_svs": 1, "transpose": False})
MIMICRY = Mixin("mimicry", "sn_weights", "sn_u", "sn_sigma", "num_iters", True, {})


class MixinLayer:
    """A weight that a mixin normalises.

        v = W^T u / |W^T u|,  u' = W v / |W v|,  sigma = u'^T W v,  W_hat = W / sigma

    in both modes, v and u' being constants; in training mode u' and sigma are kept.
    """

    name = "weight"
    dim = 0

    def __init__(self, path: str, module: nn.Module, mixin: Mixin):
        self.style = mixin.style
        self.path = f"{path}.{self.name}".lstrip(".")
        self.module = module
        self.mixin = mixin

    @property
    def training(self) -> bool:
        return self.module.training

    def tensors(self) -> Tensors | None:
        module, mixin = self.module, self.mixin
        if any(getattr(module, name, None) != value for name, value in mixin.fixed.items()):
            return None
        if getattr(module, mixin.iterations) < 1:
            return None
        tensors = module._parameters.get(self.name), module._buffers.get(mixin.u), module._buffers.get(mixin.sigma)
        return None if any(t is None for t in tensors) else tensors

    @property
    def obstacle(self) -> str:
        mixin = self.mixin
        settings = [*mixin.fixed.items(), (mixin.iterations, "1 or more")]
        needed = ", ".join(f"{name} {value}" for name, value in settings)
        found = ", ".join(f"{name} {getattr(self.module, name, None)}" for name, _ in settings)
        return f"it is computed together with others only with a parameter weight and {needed}; it has {found}"

    def options(self, dtype: torch.dtype) -> Options:
        """The op's options for a weight of this dtype, as they are now; u is iterated in eval mode, but not kept."""
        full = self.training or self.mixin.iterates_in_eval
        iterations = getattr(self.module, self.mixin.iterations) if full else 1
        return Options(iterations, self.module.eps, training=True, u_first=False, out_dtype=dtype)

    def vectors(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """u as the op takes it, and room for v, which the op computes from u before it reads it."""
        weight, u, _ = tensors
        return u.flatten(), weight.new_empty(prod(weight.shape[1:]))

    def buffers(self, tensors: Tensors, u: Tensor, v: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
        return u.view_as(tensors[1]), sigma.view_as(tensors[2])

    def compute(self) -> Tensor | None:
        """What the mixin's method does, by the op; None for what the op does not take."""
        tensors = self.tensors()
        if tensors is None or refusal(tensors[0], *self.vectors(tensors), self.dim):
            return None
        weight, *kept = tensors
        u, v = self.vectors(tensors)
        (weight_hat,), (u,), (v,), sigma = normalize([weight], [u], [v], [self.dim], self.options(weight.dtype))
        if self.training:
            with torch.no_grad():
                torch._foreach_copy_(kept, self.buffers(tensors, u, v, sigma))
        return weight_hat

    def difference(self) -> str:
        """Where the method of the layer's class does not do what `compute` does; empty if it does.

        Both run in each mode, from a u that is far from the singular vector, and leave no trace.
        """
        module, name = self.module, self.mixin.method
        if name in vars(module):
            return f"its own {name} was replaced"
        ours = self._both_modes(self.compute)
        try:
            theirs = self._both_modes(getattr(module, name))
        except RuntimeError as error:
            return f"its {name} fails: {error}"
        # Half precision is theirs to lose: what is to be told apart differs in its first digits.
        near = 1e-3 if ours[0].dtype in (torch.float32, torch.float64) else 5e-2
        if all(torch.allclose(a, b, near, near * 1e-3, equal_nan=True) for a, b in zip(ours, theirs, strict=True)):
            return ""
        return f"its {name} computes something else than {self.style}'s"

    @torch.no_grad()
    def _both_modes(self, compute: Callable[[], Tensor]) -> list[Tensor]:
        """W_hat, u and sigma as a read leaves them, in training mode and in eval mode."""
        module, names, training = self.module, (self.mixin.u, self.mixin.sigma), self.module.training
        _, *kept = self.tensors()
        start = torch.randn(kept[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        results = []
        try:
            for module.training in (True, False):
                module._buffers |= zip(names, (start.to(kept[0], copy=True), torch.zeros_like(kept[1])), strict=True)
                results += [compute(), *(module._buffers[name] for name in names)]
        finally:
            module.training = training
            module._buffers |= zip(names, kept, strict=True)
        return results

    def attach(self, slot: Slot) -> None:
        vars(self.module)[_SLOT] = slot
        mix_in(self.module, _GROUPED[self.mixin.style])

    def detach(self) -> None:
        vars(self.module).pop(_SLOT, None)
        take_out(self.module, _GROUPED[self.mixin.style])

    def slot(self) -> Slot | None:
        return vars(self.module).get(_SLOT)


_SLOT = "_fastgan_mixin_slot"


class _GroupedBigGAN(MixIn):
    def W_(self) -> Tensor:
        return _taken(self, BIGGAN, super().W_)


class _GroupedMimicry(MixIn):
    def sn_weights(self) -> Tensor:
        return _taken(self, MIMICRY, super().sn_weights)


_GROUPED = {BIGGAN.style: _GroupedBigGAN, MIMICRY.style: _GroupedMimicry}


def _taken(module: nn.Module, mixin: Mixin, compute: Callable[[], Tensor]) -> Tensor:
    layer, slot = MixinLayer("", module, mixin), module.__dict__.get(_SLOT)
    tensors = None if slot is None else layer.tensors()
    weight_hat = None if tensors is None else slot.take(tensors, layer.training)
    return compute() if weight_hat is None else weight_hat


def mixin_layers(path: str, module: nn.Module) -> Iterator[MixinLayer]:
    """The weight of this module, if one of the mixins normalises it."""
    for mixin in (BIGGAN, MIMICRY):
        members = (mixin.method, mixin.u, mixin.sigma, mixin.iterations, "eps", "weight")
        if callable(getattr(type(module), mixin.method, None)) and all(hasattr(module, name) for name in members):
            yield MixinLayer(path, module, mixin)
