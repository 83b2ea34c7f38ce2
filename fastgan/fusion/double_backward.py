"""Convolutions of a network whose gradients are differentiated: gradient penalties, path lengths."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.around import Around
from fastgan.fusion.report import LOCK, PLAIN, Row
from fastgan.fusion.state import can_defer
from fastgan.intercept import canonical, run_under, tensors_in
from fastgan.intercept.convolutions import EFFICIENT, EfficientConvolutions

# On a CPU the call of an efficient one takes 50 us longer, or more: it is faster from this many multiply-adds on, and
# with 1x1 kernels on maps of more than this many pixels.
LEAST_WORK = 2**24
POINTWISE_PIXELS = 256
_RUNS = "convolutions with an efficient double backward, where they are large"


class DoubleBackward(Around):
    """Waits for a backward with `create_graph=True`; in later forwards of that kind, convolutions are ready for it.

    The kind is what the inputs are to autograd: images that a penalty differentiates by are leaves, a generator's are
    results, others require no gradient.

    Args:
        rows: of the network's report.
    """

    def __init__(self, rows: list[Row]):
        self.rows = rows
        self.row = Row("", "a gradient of a gradient", _RUNS)
        self.some = False  # whether it ran so in any forward
        self.needed: set[frozenset] = set()
        self.too_small: dict[frozenset, list[torch.Size]] = {}  # the inputs' shapes

    def around(self, module: nn.Module, args: tuple, call: Callable[[], Any]) -> Any:
        """From the first such backward on, with a mode; until then, what the forward returns is watched."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not can_defer():
            return call()
        kind = _kind(args)
        if kind in self.needed:
            shapes = [tensor.shape for tensor in tensors_in(args)]
            return call() if self.too_small.get(kind) == shapes else self._run(kind, shapes, call)
        out = call()
        with torch._C.DisableTorchFunction():  # it changes nothing, so no mode needs to see it
            for tensor in tensors_in(out):
                if tensor.grad_fn is not None:
                    tensor.grad_fn.register_prehook(partial(self._watch, kind))
        return out

    def _run(self, kind: frozenset, shapes: list[torch.Size], call: Callable[[], Any]) -> Any:
        mode = _WhereTheyPay()
        out = run_under(mode, call)
        if mode.some:
            self.some = True
            self.row.runs, self.row.reason = _RUNS, ""
        else:
            self.too_small[kind] = shapes
            if not self.some:
                self.row.runs, self.row.reason = PLAIN, "no convolution is large enough to gain"
        return out

    def _watch(self, kind: frozenset, gradients: tuple[Tensor | None, ...]) -> None:
        if not torch.is_grad_enabled():
            return
        with LOCK:
            if not self.needed:
                self.rows.append(self.row)
            self.needed.add(kind)


class _WhereTheyPay(EfficientConvolutions):
    """Convolutions that would not be faster stay torch's."""

    some = False  # whether another was called

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in EFFICIENT:
            given = canonical(function, args, kwargs).named()
            transposed = "transpose" in function.__name__
            if not pays(given["input"], given["weight"], 1 if transposed else given.get("stride", 1)):
                return function(*args, **kwargs)
            self.some = True
        return super().__torch_function__(function, types, args, kwargs)


def pays(x: Tensor, weight: Tensor, stride: int | Sequence[int]) -> bool:
    """Whether a convolution with these is worth an efficient double backward."""
    if not x.is_cpu or weight.ndim < 3 or x.ndim != weight.ndim:
        return True
    pixels = prod(x.shape[2:])
    if prod(weight.shape[2:]) == 1 and pixels <= POINTWISE_PIXELS:
        return False
    steps = [stride] if isinstance(stride, int) else list(stride)
    outputs = pixels // prod(steps * (weight.ndim - 2) if len(steps) == 1 else steps)
    return x.shape[0] * outputs * weight.numel() >= LEAST_WORK


def _kind(args: Any) -> frozenset[bool]:
    """Of the inputs that require grad, whether they are leaves."""
    with torch._C.DisableTorchFunction():
        return frozenset(tensor.is_leaf for tensor in tensors_in(args) if tensor.requires_grad)
