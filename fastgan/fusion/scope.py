"""Where calls are put off: the forward of a module in which a recording found chains."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastgan import functional
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

_SPELLINGS = {"add": ("add", "__add__", "__radd__")}
# The calls that a chain may begin with; what changes its argument in place is none of them.
BEGINNINGS: frozenset[Callable] = frozenset(
    getattr(place, spelling)
    for name in chains.BEGINNINGS
    for spelling in _SPELLINGS.get(name, (name,))
    for place in (torch, nn.functional, Tensor)
    if hasattr(place, spelling)
) - {torch.batch_norm, torch.instance_norm}  # their arguments come in another order
BEGINNINGS |= {functional.conv1d, functional.conv2d, functional.conv3d}


class Kind(NamedTuple):
    """The kind of a forward: what chains it has may depend on it."""

    training: bool
    grad: bool
    autocast: bool

    @classmethod
    def of(cls, module: nn.Module) -> "Kind":
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


class Fusing(TorchFunctionMode):
    """One forward: puts off the calls with which chains begin.

    Args:
        sites: by the number of the call, among those that are in `BEGINNINGS`.
        kind: of the forward.
    """

    def __init__(self, sites: dict[int, Site], kind: Kind):
        super().__init__()
        self.sites, self.kind = sites, kind
        self.calls = 0
        self.begun: dict[int, int] = {}  # id of a Pending -> number of its call
        self.frame: FrameType | None = None  # of the forward
        self.waiting = Waiting(self._missed)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """Every call of torch in the forward."""
        kwargs = kwargs or {}
        site = None
        if function in BEGINNINGS:
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

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self.waiting.settle()

    def _begin(self, site: Site, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor | None:
        made = canonical(function, args, kwargs)
        plain = all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors_in((args, kwargs)))
        if not plain or may_change(function, args, kwargs) or not can_defer():
            return None
        # An interrupt leaves the mode behind: see `close_abandoned`.
        if not _runs(self.frame, sys._getframe()):
            return None
        link = chains.BEGINNINGS[made.name](made)
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


# --- hooks ---


class _Entry(NamedTuple):
    """A scope that is open: whose it is, and in which frame its forward runs."""

    owner: "Hooks"
    mode: TorchFunctionMode | None
    frame: FrameType


class _Stack(threading.local):
    """The scopes that are open in a thread, the last one last."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []


_stack = _Stack()


def enter(owner: "Hooks", mode: TorchFunctionMode | None) -> None:
    """Open a scope in a forward pre-hook, which calls this."""
    frame = sys._getframe(2)
    if mode is not None:
        mode.frame = frame
        mode.__enter__()
    _stack.entries.append(_Entry(owner, mode, frame))


def close_abandoned() -> None:
    """Behind an interrupt no hook runs: close the scopes whose forward is over."""
    frame = sys._getframe(1)
    while _stack.entries and not _runs(_stack.entries[-1].frame, frame):
        _close()


def leave(owner: "Hooks") -> TorchFunctionMode | None:
    """Close the scope that the owner's pre-hook opened, and return its mode; None if it did not come to that."""
    return _close() if _stack.entries and _stack.entries[-1].owner is owner else None


def is_open() -> bool:
    """Whether a mode of ours looks for chains in the calls of this thread."""
    return any(entry.mode is not None and entry.owner.fuses for entry in _stack.entries)


def _close() -> TorchFunctionMode | None:
    mode = _stack.entries.pop().mode
    if mode is not None:
        mode.__exit__(None, None, None)
        mode.frame = None  # it holds the tensors of the forward
    return mode


def _runs(frame: FrameType, now: FrameType | None) -> bool:
    while now is not None and now is not frame:
        now = now.f_back
    return now is not None


class Hooks:
    """What opens a scope in every forward of a module. The module may be copied or saved with it."""

    fuses = True  # whether calls are looked at for the sake of chains

    def __init__(self, module: nn.Module):
        self.handles = (
            module.register_forward_pre_hook(self.start, prepend=True),
            module.register_forward_hook(self.finish, always_call=True),
        )

    def start(self, module: nn.Module, args: Any) -> None:
        """Before the forward."""
        if not torch.compiler.is_compiling():
            close_abandoned()
            enter(self, self.mode(module, args))

    def finish(self, module: nn.Module, args: Any, out: Any) -> None:
        """Behind it."""
        if not torch.compiler.is_compiling():
            mode = leave(self)
            failed = out is None and sys.exc_info()[0] is not None
            if mode is not None and not failed:
                self.finished(module, mode)

    def mode(self, module: nn.Module, args: Any) -> TorchFunctionMode | None:
        """What looks at the calls of the forward of `args` that begins; None for nothing."""
        raise NotImplementedError

    def finished(self, module: nn.Module, mode: TorchFunctionMode) -> None:
        """A forward has been looked at."""
        raise NotImplementedError

    def remove(self) -> None:
        """Leave no trace."""
        for handle in self.handles:
            handle.remove()


class Scope(Hooks):
    """Puts calls off in every forward of a module in which chains were found.

    Args:
        module: where they are.
        finder: who found them, when it looked at the whole network.
    """

    def __init__(self, module: nn.Module, finder: Hooks):
        super().__init__(module)
        self.finder = finder
        self.sites: dict[Kind, dict[int, Site]] = {}

    def put(self, kind: Kind, number: int, site: Site) -> None:
        """Let a chain begin with a call of such a forward."""
        site.row.kinds += 1
        self.sites.setdefault(kind, {})[number] = site

    def mode(self, module: nn.Module, args: Any) -> Fusing | None:
        """None where no chain was found in such a forward, and inside another scope."""
        kind = Kind.of(module)
        sites = self.sites.get(kind)
        return Fusing(sites, kind) if sites and can_defer() and not is_open() else None

    def finished(self, module: nn.Module, mode: Fusing) -> None:
        """Nothing waits any longer."""
        mode.waiting.finish(f"what comes behind {type(module).__name__}'s forward")
