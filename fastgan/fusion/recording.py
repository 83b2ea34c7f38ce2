"""The first forward of every kind: it runs as it is, and shows which calls make chains."""

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.fusion import chains
from fastgan.fusion.chains import CHAIN_STARTS, Link
from fastgan.fusion.changes import may_change
from fastgan.fusion.deferred import KNOWN
from fastgan.fusion.hooks import Looking
from fastgan.fusion.work import Work, work
from fastgan.intercept import Call, canonical, run_under, tensors_in

# Of the calls that could begin a chain and do not, these get a line in the report.
_REPORTED = {"interpolate", "upsample", "batch_norm", "instance_norm"}


@dataclass
class _Frame:
    """The forward of a module that runs, and how many calls of `CHAIN_STARTS` were in it."""

    path: str
    begun: int = 0


@dataclass(eq=False)
class Step:
    """A call that may be in a chain, and what took its result.

    Args:
        number: of the call in the whole forward.
        call: its canonical name.
        link: what is known after it, or why nothing is.
        within: the forwards of modules that it is in, the root's first, and its number among their `CHAIN_STARTS`.
        in_place: the result is an argument that was changed.
        taken: the name of each call that took its result, and the next step or why that is none.
        kept: what a backward would need of it that the calls do not keep: tensors, and their versions.
    """

    number: int
    call: str
    link: Link | str
    within: list[tuple[_Frame, int]]
    in_place: bool
    taken: list[tuple[str, "Step | str"]] = field(default_factory=list)
    kept: list[tuple[Tensor, int]] = field(default_factory=list)

    def __post_init__(self):
        if isinstance(self.link, Link) and self.link.complete and torch.is_grad_enabled():
            with torch._C.DisableTorchFunction():
                self.kept = [(t.detach(), t._version) for t in self.link.kept]

    @property
    def is_lost(self) -> bool:
        """Whether what is kept has been changed in place since."""
        return any(tensor._version != version for tensor, version in self.kept)


@dataclass
class Chain:
    """A chain, or what looked like the beginning of one.

    Args:
        op: one of `chains.OPS`.
        steps: its calls.
        reason: why they stay as they are; empty if they need not.
        path: of the module that the chain begins in.
        scopes: paths of the modules whose forward has the whole chain, the root first, and the number of the first call
            among the `CHAIN_STARTS` of that forward.
        calls: their positions in the forward.
    """

    op: str
    steps: list[str]
    reason: str
    path: str
    scopes: list[tuple[str, int]]
    calls: list[int]


class ChainRecorder(Looking):
    """Looks at every call of a forward and changes nothing.

    Args:
        root: the network.
    """

    def __init__(self, root: nn.Module):
        super().__init__()
        self._paths = {module: path for path, module in root.named_modules()}
        self._beginnings: list[Step] = []
        self._pools: list[Step] = []
        self._steps: dict[int, tuple[weakref.ref[Tensor], list[Step]]] = {}  # by id of their result
        self._root = _Frame("")
        self._frames: dict[int, tuple[dict, _Frame]] = {}  # by id of a call's keyword arguments
        self.work: list[Work] = []  # of every call

    def watch(self, call: Callable[[], Any]) -> Any:
        """Return `call()`, the root's."""
        self._outside = id(sys._getframe())
        return run_under(self, call)

    def _running(self) -> list[_Frame]:
        """The forwards of modules that run, the root's first.

        Read off Python's stack: hooks would be there for other threads too, and after an interrupt. A call is known by
        the dictionary of its keyword arguments, of which every call has a new one, and which holds no activation.
        """
        running, frame = [], sys._getframe(2)
        while id(frame) != self._outside:
            if frame.f_code is _CALL:
                module, kwargs = _given(frame)
                if module in self._paths:
                    running.append(self._frames.setdefault(id(kwargs), (kwargs, _Frame(self._paths[module])))[1])
            frame = frame.f_back
        return [self._root, *reversed(running)]

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in KNOWN:
            return function(*args, **kwargs)
        call, begins = canonical(function, args, kwargs), function in CHAIN_STARTS
        in_place = may_change(function, args, kwargs)
        taken = [(tensor, step) for tensor in tensors_in((args, kwargs)) for step in self._made(tensor)]
        # Links are of what the arguments are before the call.
        links = [_follow(step, call, tensor) for tensor, step in taken]
        first = chains.begin(call) if begins else None
        out = function(*args, **kwargs)
        steps = []
        for (_, step), link in zip(taken, links, strict=True):
            following = self._step(call, link, in_place, out)
            step.taken.append((call.name, following))
            if isinstance(following, Step):
                steps.append(following)
        if begins:
            if in_place:
                first = f"{call.name} changes its argument in place"
            following = self._step(call, first, in_place, out)
            if isinstance(following, Step):
                steps.append(following)
                self._beginnings.append(following)
            elif call.name in _REPORTED:
                self._beginnings.append(self._new(call, following, in_place))
            for frame in self._running():
                frame.begun += 1
        if "avg_pool" in call.name and not any(isinstance(link, Link) for link in links):
            self._pools.append(self._new(call, next(iter(links), "it takes no convolution's result"), in_place))
        if steps:
            self._steps[id(out)] = weakref.ref(out), steps
        self.work.append(work(call, out))
        return out

    def chains(self) -> list[Chain]:
        """Those that were found, and what only looked like one."""
        found, used = [], set()
        for step in self._beginnings:
            if step.number in used:
                continue
            for steps, reason in _continued(step):
                if not reason:
                    used.update(step.number for step in steps)
                if not reason or len(steps) > 1 or step.call in _REPORTED:
                    found.append(_chain(steps, reason))
        pools = [_chain([pool], pool.link) for pool in self._pools if pool.number not in used]
        return found + pools

    def _made(self, tensor: Tensor) -> list[Step]:
        """The steps of which the tensor is the result."""
        ref, steps = self._steps.get(id(tensor), (None, []))
        return steps if ref is not None and ref() is tensor else []

    def _step(self, call: Call, link: Link | str, in_place: bool, out: Any) -> Step | str:
        if isinstance(link, str):
            return link
        if not isinstance(out, Tensor) or out.shape != link.shape or out.dtype != link.dtype:
            return f"{call.name} returns something else"
        return self._new(call, link, in_place)

    def _new(self, call: Call, link: Link | str, in_place: bool) -> Step:
        return Step(len(self.work), call.name, link, [(frame, frame.begun) for frame in self._running()], in_place)


_CALL = nn.Module.__call__.__code__


def _given(frame: FrameType) -> tuple[nn.Module, dict]:
    given = frame.f_locals
    return given["self"], given["kwargs"]


def _follow(step: Step, call: Call, tensor: Tensor) -> Link | str:
    if step.in_place:
        return f"its result, which {step.call} made in place, goes to {call.name}"
    return chains.follow(step.link, call, tensor)


def _continued(first: Step) -> list[tuple[list[Step], str]]:
    """The chains that begin with a step, or itself and why there is none."""
    if isinstance(first.link, str):
        return [([first], first.link)]
    if not first.taken and not first.link.complete:
        return [([first], "nothing that can be seen takes its result")]
    # Several calls may each go on with it, if that makes a chain of two.
    if len(first.taken) > 1 and all(isinstance(step, Step) and step.link.complete for _, step in first.taken):
        ends = [[first, step] for _, step in first.taken]
    else:
        end = _longest(first)
        if end is None:
            reasons = [step for _, step in first.taken if isinstance(step, str)]
            return [([first], reasons[0] if reasons else "the chain that it begins is not completed")]
        ends = [end]
    lost = [_CHANGED if any(end[-1].is_lost for end in ends) else end[-1].link.loss() for end in ends]
    if all(lost):
        if first.link.complete and not first.link.loss() and not first.is_lost:
            return [([first], "")]
        return [(end, loss) for end, loss in zip(ends, lost, strict=True)]
    return [(end, "") for end in ends]


def _longest(step: Step) -> list[Step] | None:
    if len(step.taken) == 1 and isinstance(following := step.taken[0][1], Step):
        rest = _longest(following)
        if rest is not None:
            return [step, *rest]
    return [step] if step.link.complete else None


def _chain(steps: list[Step], reason: str) -> Chain:
    first = steps[0]
    # The forwards that have all of it.
    common = [
        (frame.path, number)
        for i, (frame, number) in enumerate(first.within)
        if all(len(step.within) > i and step.within[i][0] is frame for step in steps)
    ]
    op = steps[-1].link.op if isinstance(steps[-1].link, Link) else _OPS.get(first.call, "conv_downsample")
    return Chain(
        op, [step.call for step in steps], reason, first.within[-1][0].path, common, [step.number for step in steps]
    )


_CHANGED = "what its backward needs is changed in place after it"
_OPS = {
    "interpolate": "upsample_conv",
    "upsample": "upsample_conv",
    "batch_norm": "norm_act",
    "instance_norm": "norm_act",
}
