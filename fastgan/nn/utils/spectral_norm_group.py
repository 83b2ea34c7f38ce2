"""All spectrally normalised layers of a network, computed in one grouped call at the start of its forward.

Spectral norm is computed where the weight is read, one layer at a time. A *group* computes every layer when the forward
of the network, the root, starts. The results are pending: the first use of a layer takes its own, if nothing it depends
on has changed since; every other use computes for itself, as it did before. When the forward ends, what is still
pending is dropped, and u and v of the layers that were used are written into their buffers.
"""

import threading
import weakref
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgan.nn.utils.spectral_norm import normalize, refusal
from fastgan.nn.utils.spectral_norm_layers import Layer, Skipped, Tensors, find
from fastgan.ops.tracing import saved_tensor_hooks


class Grouped(NamedTuple):
    """A layer that the group computes."""

    path: str
    style: str
    shape: tuple[int, ...]


class GroupReport(NamedTuple):
    """What `group_spectral_norm` did: the layers in the group, and those left to themselves with the reason."""

    grouped: list[Grouped]
    skipped: list[Skipped]

    def __repr__(self) -> str:
        lines = [f"{len(self.grouped)} spectrally normalised layers grouped, {len(self.skipped)} left alone"]
        lines += [f"  {path} {list(shape)} ({style})" for path, style, shape in self.grouped]
        lines += [f"  left alone: {path} ({style}): {reason}" for path, style, reason in self.skipped]
        return "\n".join(lines)


def group_spectral_norm(model: nn.Module) -> GroupReport:
    """Compute every spectrally normalised layer of a network in one grouped call at the start of its forward.

    Layers of `torch.nn.utils.spectral_norm`, `torch.nn.utils.parametrizations.spectral_norm` and
    `fastgan.nn.utils.spectral_norm` are found, in any mixture; so are those with BigGAN's mixin `SN` (its `W_()`) or
    mimicry's `SpectralNorm` (its `sn_weights()`), where each is seen to compute what the op does. Outputs, gradients,
    keys of the state_dict, and u, v and sigma after every forward stay what they were. A layer used a second time in
    one forward, or outside the forward of `model`, is computed on its own. Grouping again finds layers added since, and
    replaces groups of submodules. Under autocast the weights are computed in float32 or better, where the mixins'
    matmuls would round u, v and sigma to autocast's dtype.

    The gradients of one forward's weights are one node of the autograd graph. So two outputs of one forward that share
    no layer need retain_graph=True in every backward but the last; and a weight that is changed in place between the
    start of the forward and the backward fails the backward of all of them.

    Args:
        model: the root. DistributedDataParallel, DataParallel and torch.compile wrappers are looked through.

    Returns:
        The layers that were grouped, and those left alone with the reason; printable.

    Raises:
        ValueError: `model` is a part of a network that is grouped already.
        RuntimeError: in the forward, if `model` runs as a replica of nn.DataParallel.

    Derivatives: as `fastgan.functional.spectral_norm`.
    """
    root = unwrap(model)
    groups = _groups(root)
    layers, skipped = find(root)
    for layer in layers:
        owner = layer.slot() and layer.slot().owner
        if owner is not None and owner() is not None and owner() not in groups:
            raise ValueError(
                "model must not be a part of a network that is grouped already: call ungroup_spectral_norm on that one "
                f"first (its {layer.style} at {layer.path!r} is in a group)"
            )
    for group in groups:
        group.remove()
    if layers:
        _Group(root, layers)
    return GroupReport([Grouped(layer.path, layer.style, tuple(layer.tensors()[0].shape)) for layer in layers], skipped)


def ungroup_spectral_norm(model: nn.Module) -> None:
    """Undo `group_spectral_norm` of this network, and of any part of it.

    Args:
        model: the root that was grouped.

    Raises:
        ValueError: neither it nor a part of it is grouped.
    """
    groups = _groups(unwrap(model))
    if not groups:
        raise ValueError(f"model must be a network that was grouped, got an ungrouped {type(model).__name__}")
    for group in groups:
        group.remove()


def is_grouped(model: nn.Module) -> bool:
    """Whether a network, or a part of it, is grouped."""
    return bool(_groups(unwrap(model)))


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and torch.compile."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrap(model.module)
    return unwrap(model._orig_mod) if hasattr(model, "_orig_mod") else model


def _groups(root: nn.Module) -> list["_Group"]:
    hooks = (hook for module in root.modules() for hook in module._forward_pre_hooks.values())
    owners = (getattr(hook, "__self__", None) for hook in hooks)
    return [owner for owner in owners if isinstance(owner, _Group)]


# --- at work ---


class _Forward(NamedTuple):
    """A forward of the root, as far as its results depend on it."""

    grad_enabled: bool
    thread: int
    saved_tensor_hooks: Any

    @classmethod
    def now(cls) -> "_Forward":
        """The one that starts here. Nothing of it can be traced; what is traced is told apart by its thread, 0."""
        if torch.compiler.is_compiling():
            return cls(torch.is_grad_enabled(), 0, None)
        return cls(torch.is_grad_enabled(), threading.get_ident(), saved_tensor_hooks())

    def covers_now(self) -> bool:
        """Whether a result of it, used now, is as if it had been computed now."""
        if not self.grad_enabled and torch.is_grad_enabled():
            return False
        if torch.compiler.is_compiling():
            return self.thread == 0
        return self.thread == threading.get_ident() and self.saved_tensor_hooks == saved_tensor_hooks()


class _Result(NamedTuple):
    """What one layer computes, and what from."""

    weight_hat: Tensor
    after: tuple[Tensor, ...]  # of a use, the buffers
    tensors: Tensors  # the weight, and the buffers before
    versions: tuple[int, ...]
    training: bool
    forward: _Forward

    def holds(self, tensors: Tensors, training: bool) -> bool:
        """Whether computing it now would give the same."""
        return (
            all(map(is_, self.tensors, tensors))
            and self.training == training
            and self.versions == _versions(tensors)
            and self.forward.covers_now()
        )


class _Slot:
    """One layer's part of the forward that is running."""

    def __init__(self, owner: "_Group"):
        self.owner: weakref.ref[_Group] | None = weakref.ref(owner)
        self.pending: _Result | None = None
        self.used: _Result | None = None

    def take(self, tensors: Tensors, training: bool) -> Tensor | None:
        """The pending result, once; None if there is none that holds."""
        pending, self.pending = self.pending, None
        if self.used is not None:
            # A second use starts from what the first one left.
            _commit([self.used])
            self.used = None
        if pending is None or not pending.holds(tensors, training):
            return None
        if training:
            self.used = pending
        return pending.weight_hat if torch.is_grad_enabled() else pending.weight_hat.detach()

    def __getstate__(self) -> dict[str, None]:
        # A copy belongs to the copy of the group, if that is copied too (see `_Group.__setstate__`), and to no forward.
        return {"owner": None, "pending": None, "used": None}


class _Group:
    """The layers of one root, and its two hooks."""

    def __init__(self, root: nn.Module, layers: list[Layer]):
        self.layers = layers
        self.slots = [_Slot(self) for _ in layers]
        for layer, slot in zip(layers, self.slots, strict=True):
            layer.attach(slot)
        # The root may itself be a layer that a hook normalises: hence prepend. A forward may fail: hence always_call.
        self.handles = (
            root.register_forward_pre_hook(self.start, prepend=True),
            root.register_forward_hook(self.finish, always_call=True),
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for slot in self.slots:
            slot.owner = weakref.ref(self)

    def remove(self) -> None:
        """Leave no trace."""
        self.finish()
        for layer in self.layers:
            layer.detach()
        for handle in self.handles:
            handle.remove()

    def start(self, root: nn.Module, args: Any) -> None:
        """Compute what every layer would, as one call for all that have the same settings."""
        if getattr(root, "_is_replica", False):
            raise RuntimeError(
                "a network grouped by group_spectral_norm cannot run as a replica of nn.DataParallel: "
                "use DistributedDataParallel, or ungroup_spectral_norm"
            )
        # A forward inside the forward takes over: the outer one goes on layer by layer.
        self.finish()
        calls: dict[tuple, list[tuple]] = {}
        for layer, slot in zip(self.layers, self.slots, strict=True):
            tensors = layer.tensors()
            if tensors is None or refusal(tensors[0], *(vectors := layer.vectors(tensors)), layer.dim):
                continue
            weight = tensors[0]
            key = (layer.options(weight.dtype), weight.device)
            if key not in calls:
                calls[key] = []
            calls[key].append((layer, slot, tensors, weight, *vectors, layer.dim))
        forward = _Forward.now()
        for (options, _), members in calls.items():
            layers, slots, tensors, *inputs = zip(*members, strict=True)
            weights_hat, new_us, new_vs, sigmas = normalize(*inputs, options)
            results = zip(layers, slots, tensors, weights_hat, new_us, new_vs, sigmas.detach().unbind(), strict=True)
            for layer, slot, given, weight_hat, u, v, sigma in results:
                after = layer.buffers(given, u, v, sigma)
                slot.pending = _Result(weight_hat, after, given, _versions(given), layer.training, forward)

    def finish(self, *_: Any) -> None:
        """Drop what is pending, and write u and v of what was used."""
        # Here and not at each use: on a GPU that is one launch and not two per layer. A second use finds what the first
        # one left (see `_Slot.take`), so only code that itself reads u or v during the forward could tell.
        used = [slot.used for slot in self.slots if slot.used is not None]
        for slot in self.slots:
            slot.pending = slot.used = None
        if used:
            _commit(used)


@torch.no_grad()
def _commit(used: list[_Result]) -> None:
    """Leave the buffers as the use of these layers leaves them."""
    torch._foreach_copy_([t for r in used for t in r.tensors[1:]], [t for r in used for t in r.after])


def _versions(tensors: Tensors) -> tuple[int, ...]:
    if torch.compiler.is_compiling():
        return ()
    try:
        return tuple([t._version for t in tensors])
    except RuntimeError:
        # Tensors made in inference mode count no versions.
        return ()
