"""Where calls are deferred: the forward of a module in which chains were found."""

from collections.abc import Callable
from typing import Any

from torch import nn

from fastgan.around import Around
from fastgan.fusion.call_state import CallState
from fastgan.fusion.hooks import Deferring, Site, is_looking
from fastgan.fusion.state import can_defer
from fastgan.modes import run_under


class Scope(Around):
    """Defers calls in every forward of a module in which chains were found. It is copied and saved with the module.

    Args:
        finder: what found them, when it looked at the whole network.
    """

    def __init__(self, finder: Any):
        self.finder = finder
        self.sites: dict[CallState, dict[int, Site]] = {}

    def put(self, state: CallState, number: int, site: Site) -> None:
        """Let a chain begin with a call of such a forward."""
        sites = self.sites.setdefault(state, {})
        if number not in sites:
            site.row.kinds += 1
            sites[number] = site

    def around(self, module: nn.Module, args: tuple, call: Callable[[], Any]) -> Any:
        """As it is where no chain was found in such a forward, and inside another scope."""
        state = CallState.of(module)
        sites = self.sites.get(state)
        if not sites or is_looking() or not can_defer():
            return call()
        mode = Deferring(sites, state)
        try:
            out = run_under(mode, call)
        finally:
            mode.settle()
        mode.finish(f"what comes after {type(module).__name__}'s forward")
        return out
