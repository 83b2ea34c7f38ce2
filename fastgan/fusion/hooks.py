"""What sees the calls of torch in a forward: `Looking` in general, `Deferring` to defer those that begin chains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastgan.fusion import chains
from fastgan.fusion.call_state import CallState
from fastgan.fusion.changes import hands_out_memory, may_change, memory_of, share_memory
from fastgan.fusion.deferred import Deferred, call, compute, count_change, defer
from fastgan.fusion.pending import Pending, Waiting
from fastgan.fusion.report import PLAIN, Row
from fastgan.fusion.state import can_defer
from fastgan.intercept import canonical, tensors_in
from fastgan.modes import active


class Looking(TorchFunctionMode):
    """Looks at the calls of a forward for the sake of chains. Such modes do not nest."""


def is_looking() -> bool:
    """Whether the calls of this thread are looked at for the sake of chains."""
    return active(Looking)


@dataclass
class Site:
    """A chain in a forward.

    Args:
        row: of the report.
        calls: that follow the first.
    """

    row: Row
    calls: int


class Deferring(Looking):
    """One forward: defers the calls with which chains begin.

    Args:
        sites: by the number of the call, among those that are in `chains.CHAIN_STARTS`.
        state: of the forward.
    """

    def __init__(self, sites: dict[int, Site], state: CallState):
        super().__init__()
        self.sites, self.state = sites, state
        self.calls = 0
        self.begun: dict[int, int] = {}  # id of a Pending -> number of its call
        self.waiting = Waiting(self._missed)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        site = None
        if function in chains.CHAIN_STARTS:
            site = self.sites.get(self.calls)
            self.calls += 1
        if self.waiting:
            self._compute_what_depends(function, args, kwargs)
        if Deferred in types:
            return call(function, args, kwargs)
        if site is not None:
            out = self._begin(site, function, args, kwargs)
            if out is not None:
                return out
        return function(*args, **kwargs)

    def settle(self) -> None:
        """Let what changes something in place happen, whether or not the forward came to its end."""
        for tensor in self.waiting.kept():
            self._missed(tensor._pending, "nothing in the forward")
            compute(tensor)

    def finish(self, wanted_by: str) -> None:
        """Compute all that still wait at the end of the forward."""
        for tensor in self.waiting:
            self._missed(tensor._pending, wanted_by)
            compute(tensor)
        self.waiting.clear()

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

    def _compute_what_depends(self, function: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
        """Compute what waits and depends on what this call changes, or changes what this call takes.

        And let the holders of a wrapper know of a change, also of one by way of a view.
        """
        given = {memory_of(t) for t in tensors_in((args, kwargs)) if not isinstance(t, Deferred)}
        changed = given if may_change(function, args, kwargs) or hands_out_memory(function) else set()
        for tensor in self.waiting:
            link = tensor._pending.link
            if share_memory(changed, link.inputs) or share_memory(given, link.changes):
                compute(tensor)
        for wrapper in self.waiting.wrappers():
            if share_memory(changed, (wrapper._pending.result,)):
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
                site.row.reason = f"but not in {self.state}, where its result went to {wanted_by}"
            else:
                site.row.runs, site.row.reason = PLAIN, f"in a later forward its result went to {wanted_by}"
