"""Where calls are put off: the forward of a module in which a recording found chains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastgan import functional
from fastgan.around import Around
from fastgan.fusion import chains
from fastgan.fusion.deferred import (
    Deferred,
    Pending,
    Waiting,
    call,
    compute,
    count_change,
    defer,
    hands_out_memory,
    may_change,
)
from fastgan.fusion.report import PLAIN, Row
from fastgan.fusion.state import can_defer
from fastgan.intercept import canonical, tensors_in
from fastgan.modes import active, run_under

_SPELLINGS = {"add": ("add", "__add__", "__radd__")}
# The calls that a chain may begin with; what changes its argument in place is none of them.
CHAIN_STARTS: frozenset[Callable] = frozenset(
    getattr(place, spelling)
    for name in chains.CHAIN_STARTS
    for spelling in _SPELLINGS.get(name, (name,))
    for place in (torch, nn.functional, Tensor)
    if hasattr(place, spelling)
) - {torch.batch_norm, torch.instance_norm}  # their arguments come in another order
CHAIN_STARTS |= {functional.conv1d, functional.conv2d, functional.conv3d}


class CallState(NamedTuple):
    """The kind of a forward: what chains it has may depend on it."""

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


@dataclass
class Site:
    """A chain in a forward.

    Args:
        row: of the report.
        calls: that follow the first.
    """

    row: Row
    calls: int


class Looking(TorchFunctionMode):
    """Looks at the calls of a forward for the sake of chains. Such modes do not nest."""


class Fusing(Looking):
    """One forward: puts off the calls with which chains begin.

    Args:
        sites: by the number of the call, among those that are in `CHAIN_STARTS`.
        kind: of the forward.
    """

    def __init__(self, sites: dict[int, Site], kind: CallState):
        super().__init__()
        self.sites, self.kind = sites, kind
        self.calls = 0
        self.begun: dict[int, int] = {}  # id of a Pending -> number of its call
        self.waiting = Waiting(self._missed)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Every call of torch in the forward."""
        kwargs = kwargs or {}
        site = None
        if function in CHAIN_STARTS:
            site = self.sites.get(self.calls)
            self.calls += 1
        if self.waiting:
            self._let_go(function, args, kwargs)
        if Deferred in types:
            return call(function, args, kwargs)
        if site is not None:
            out = self._begin(site, function, args, kwargs)
            if out is not None:
                return out
        return function(*args, **kwargs)

    def _begin(self, site: Site, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
        made = canonical(function, args, kwargs)
        plain = all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors_in((args, kwargs)))
        if not plain or may_change(function, args, kwargs) or not can_defer():
            return None
        link = chains.begin(made)
        if isinstance(link, str):
            return None
        if not site.calls:
            return link.run() if link.complete else None
        pending = Pending(function, args, kwargs, link, site.calls, self.waiting)
        self.begun[id(pending)] = self.calls - 1
        return defer(pending)

    def _let_go(self, function: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
        """Compute what waits and depends on what this call changes, or changes what this call takes.

        And let those know of a change, by way of a view too, who hold a wrapper.
        """
        given = {_memory(t) for t in tensors_in((args, kwargs)) if not isinstance(t, Deferred)}
        changed = given if may_change(function, args, kwargs) or hands_out_memory(function) else set()
        for tensor in self.waiting:
            link = tensor._pending.link
            if _meet(changed, link.inputs) or _meet(given, link.changes):
                compute(tensor)
        for wrapper in self.waiting.wrappers():
            if _meet(changed, (wrapper._pending.result,)):
                count_change(wrapper)

    def _missed(self, pending: Pending, wanted_by: str) -> None:
        """A chain did not go on as recorded: from now on its first call runs at once."""
        if pending.has_run:
            return
        *_, first = pending.chain()
        site = self.sites.pop(self.begun.get(id(first)), None)
        if site is not None:
            site.row.kinds -= 1
            if site.row.kinds:
                site.row.reason = f"but not in {self.kind}, where its result went to {wanted_by}"
            else:
                site.row.runs, site.row.reason = PLAIN, f"in a later forward its result went to {wanted_by}"


def _memory(tensor: Tensor) -> int | None:
    """What tells its memory from others'; None where that cannot be known."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors, those that torch.func transforms
        return None


def _meet(memory: set[int | None], tensors: tuple[Tensor, ...]) -> bool:
    return bool(memory and tensors) and (None in memory or any(_memory(t) in memory for t in tensors))


# --- the forward around it ---


def is_open() -> bool:
    """Whether the calls of this thread are looked at for the sake of chains."""
    return active(Looking)


class Scope(Around):
    """Puts calls off in every forward of a module in which chains were found. It is copied and saved with the module.

    Args:
        finder: who found them, when it looked at the whole network.
    """

    def __init__(self, finder: Any):
        self.finder = finder
        self.sites: dict[CallState, dict[int, Site]] = {}

    def put(self, kind: CallState, number: int, site: Site) -> None:
        """Let a chain begin with a call of such a forward."""
        sites = self.sites.setdefault(kind, {})
        if number not in sites:
            site.row.kinds += 1
            sites[number] = site

    def around(self, module: nn.Module, args: tuple, call: Callable[[], Any]) -> Any:
        """As it is where no chain was found in such a forward, and inside another scope."""
        kind = CallState.of(module)
        sites = self.sites.get(kind)
        if not sites or is_open() or not can_defer():
            return call()
        fusing = Fusing(sites, kind)
        try:
            out = run_under(fusing, call)
        finally:
            fusing.waiting.settle()
        fusing.waiting.finish(f"what comes after {type(module).__name__}'s forward")
        return out
