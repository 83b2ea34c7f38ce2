"""All spectrally normalised layers of a network, computed in one grouped call at the start of its forward.

Spectral norm is computed where the weight is read, one layer at a time. A *group* computes every layer when the forward
of the network, the root, starts. The results are pending: the first use of a layer takes its own, if nothing it depends
on has changed since; every other use computes for itself, as it did before. When the forward ends, what is still
pending is dropped, and u and v of the layers that were used are written into their buffers.

Every thread has forwards of its own. What was removed from the network since is left out, and replicas of
nn.DataParallel compute layer by layer.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from fastgan.around import Around, release, surround, surroundings
from fastgan.spectral.layers import REMOVED, Layer, Skipped, every_layer, find, obstacle
from fastgan.spectral.parametrization import normalize, refusal
from fastgan.spectral.slot import Forward, Result, Slot, this_thread, versions_of, write_buffers


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

    Replicas of nn.DataParallel compute layer by layer, and so does whatever is added later, until it is grouped again.

    Args:
        model: the root. DistributedDataParallel, DataParallel and torch.compile wrappers are looked through.

    Returns:
        The layers that were grouped, and those left alone with the reason; printable.

    Raises:
        ValueError: `model` is a part of a network that is grouped already.

    Derivatives: as `fastgan.functional.spectral_norm`.
    """
    root = unwrap(model)
    groups = _groups(root)
    layers, skipped = find(root)
    for layer in layers:
        owner = layer.slot() and layer.slot().owner
        if owner is not None and owner() is not None and owner() not in [group for _, group in groups]:
            raise ValueError(
                "model must not be a part of a network that is grouped already: call ungroup_spectral_norm on that one "
                f"first (its {layer.style} at {layer.path!r} is in a group)"
            )
    for module, group in groups:
        group.remove(module)
    if layers:
        _Group(root, layers)
    return GroupReport([_entry(layer) for layer in layers], skipped)


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
    for module, group in groups:
        group.remove(module)


def is_grouped(model: nn.Module) -> bool:
    """Whether a network, or a part of it, is grouped."""
    return bool(_groups(unwrap(model)))


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and torch.compile."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrap(model.module)
    return unwrap(model._orig_mod) if hasattr(model, "_orig_mod") else model


def report_since(model: nn.Module, report: GroupReport) -> GroupReport:
    """What `group_spectral_norm` returned, for the network as it is now."""
    root = unwrap(model)
    groups = _groups(root)
    skipped = {layer.path: layer for layer in report.skipped}
    known = set(skipped)
    skipped |= {layer.path: Skipped(layer.path, layer.style, REMOVED) for layer in report.grouped}
    grouped = {}
    for layer in (layer for module, group in groups for layer in group.layers_of(module)):
        reason = obstacle(layer)
        if reason:
            skipped[layer.path] = Skipped(layer.path, layer.style, reason)
        else:
            grouped[layer.path] = _entry(layer)
    reason = "it is not in the group: group again" if groups else "the network is no longer grouped"
    for layer in every_layer(root):
        if layer.slot() is None and layer.path not in known:
            skipped[layer.path] = Skipped(layer.path, layer.style, reason)
    return GroupReport(list(grouped.values()), [layer for layer in skipped.values() if layer.path not in grouped])


def _groups(root: nn.Module) -> list[tuple[nn.Module, "_Group"]]:
    """Those of a network and its parts, each with its root."""
    return [(module, group) for module in root.modules() for group in surroundings(module) if isinstance(group, _Group)]


def _entry(layer: Layer) -> Grouped:
    return Grouped(layer.path, layer.style, tuple(layer.tensors()[0].shape))


# --- at work ---


class _Group(Around):
    """The layers of one root, computed around its calls."""

    def __init__(self, root: nn.Module, layers: list[Layer]):
        self.members = tuple((layer, Slot(self)) for layer in layers)
        for layer, slot in self.members:
            layer.attach(slot)
        surround(root, self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for _, slot in self.members:
            slot.owner = weakref.ref(self)

    def remove(self, root: nn.Module) -> None:
        """Leave no trace."""
        self._finish()
        for layer, _ in self.members:
            layer.detach()
        release(root, self)

    def layers_of(self, root: nn.Module) -> list[Layer]:
        """Those that are still a part of the root."""
        return [layer for layer, _ in self.members if _has(root, layer)]

    def around(self, module: nn.Module, args: tuple, call: Callable[[], Any]) -> Any:
        """With what every layer would compute; then write u and v of what was used, and drop what was not."""
        try:
            self._start()
            return call()
        finally:
            unused = self._finish()
            if unused and not torch.compiler.is_compiling() and not all(_has(module, layer) for layer in unused):
                self.forget(module)

    def _start(self) -> None:
        # One call for all layers that have the same settings.
        # A forward inside the forward takes over: the outer one goes on layer by layer.
        self._finish()
        calls: dict[tuple, list[tuple]] = {}
        for layer, slot in self.members:
            tensors = layer.tensors()
            if tensors is None or refusal(tensors[0], *(vectors := layer.vectors(tensors)), layer.dim):
                continue
            weight = tensors[0]
            key = (layer.options(weight.dtype), weight.device)
            if key not in calls:
                calls[key] = []
            calls[key].append((layer, slot, tensors, weight, *vectors, layer.dim))
        forward, thread = Forward.now(), this_thread()
        for (options, _), members in calls.items():
            layers, slots, tensors, *inputs = zip(*members, strict=True)
            weights_hat, new_us, new_vs, sigmas = normalize(*inputs, options)
            results = zip(layers, slots, tensors, weights_hat, new_us, new_vs, sigmas.detach().unbind(), strict=True)
            for layer, slot, given, weight_hat, u, v, sigma in results:
                after = layer.buffers(given, u, v, sigma)
                slot.pending[thread] = Result(weight_hat, after, given, versions_of(given), layer.training, forward)

    def forget(self, module: nn.Module) -> None:
        """Leave to themselves the layers that are no longer a part of the network."""
        kept = []
        for layer, slot in self.members:
            if _has(module, layer):
                kept.append((layer, slot))
            else:
                layer.detach()
        self.members = tuple(kept)

    def _finish(self) -> list[Layer]:
        # Here and not at each use: on a GPU that is one launch and not two per layer. A second use finds what the first
        # one left (see `Slot.take`), so only code that itself reads u or v during the forward could tell.
        thread = this_thread()
        used = [slot.used.pop(thread) for _, slot in self.members if thread in slot.used]
        unused = [layer for layer, slot in self.members if slot.pending.pop(thread, None) is not None]
        if used:
            write_buffers(used)
        return unused


def _has(root: nn.Module, layer: Layer) -> bool:
    """Whether the layer is a part of the network; first looked for where it was found."""
    module = root
    for name in layer.path.split(".")[:-1]:
        module = None if module is None else module._modules.get(name)
    return module is layer.module or any(part is layer.module for part in root.modules())
