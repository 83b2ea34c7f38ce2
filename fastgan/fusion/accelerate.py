"""`fastgan.accelerate`: a network's forward, unmodified, on fastgan's ops."""

import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

from torch import nn

from fastgan import check
from fastgan.around import REPLAY, REPLICA, TRACE, Around, release, surround, surroundings
from fastgan.fusion import chains
from fastgan.fusion.call_state import CallState
from fastgan.fusion.double_backward import DoubleBackward
from fastgan.fusion.hooks import Site, is_looking
from fastgan.fusion.measure import Measurement
from fastgan.fusion.recording import Chain, ChainRecorder
from fastgan.fusion.report import LOCK, PLAIN, Report, Row
from fastgan.fusion.scope import Scope
from fastgan.fusion.state import can_defer
from fastgan.fusion.work import share
from fastgan.nn.utils import group_spectral_norm, ungroup_spectral_norm
from fastgan.spectral.group import is_grouped, unwrap

OPS = ("spectral_norm", "double_backward", *chains.OPS)
_RUNS = {
    "upsample_conv": "upsample_conv: the large image is never formed",
    "conv_downsample": "conv_downsample: what is dropped is never formed",
    "pointwise_conv": "conv2d: a product of matrices",
    "resample": "upfirdn2d: a filter, in any memory format",
    "norm_act": "norm_act: normalization and activation in one pass",
    "bias_act": "bias_act: one pass",
}

_PASSES_BY = {
    REPLICA: "replicas are not accelerated; the processes of DistributedDataParallel are",
    REPLAY: "what was captured runs; in the other mode, training or evaluation, the forward runs as it is",
    TRACE: "a trace holds torch's operators only, and can be loaded without fastgan",
}


def accelerate(*modules: nn.Module, ops: Literal["all"] | Sequence[str] = "all", measure: bool = False) -> Report:
    """Let networks run on fastgan's ops: same outputs, gradients, buffers and checkpoints, in less time.

    Works in place, on any module, and needs no change of its code. Spectral norm, however it is written, is computed in
    one call at the start of the forward. The first forward of every kind (training or not, with gradients or not,
    autocast) runs as it is and is looked at; where a later one makes the same calls, these are computed as one:

        upsample_conv       nearest-neighbour upsampling and the convolution after it
        conv_downsample     a convolution and the average pooling after it
        pointwise_conv      a 1x1 convolution, where a product of matrices is faster
        resample            nearest or bilinear upsampling, and average pooling, where a FIR filter is faster
        norm_act            batch or instance normalization, gains and biases, and the activation
        bias_act            bias, activation, gain and clamp

    Where a backward with `create_graph=True` has been seen, as in gradient penalties, convolutions get an efficient
    double backward ("double_backward"; `fastgan.functional.conv2d`).

    Calls are recognized however they are spelled (`F.interpolate`, `nn.Upsample`, a partial, a lambda). Between the
    calls of such a chain the tensor is *deferred*: it has shape, dtype and device, and is computed, as the code says,
    when anything but the chain's next call uses it. Modules in which nothing was found are left alone.

    Inside a compiler, torch.jit.trace, torch.func, forward-mode AD, replicas of nn.DataParallel and what checkpointing
    recomputes, everything runs as it is. A network that is compiled, or has compiled parts, is left to the compiler.
    No hook is registered: torch.cuda.make_graphed_callables takes accelerated networks, and captures what runs in them.

    A network may be changed, copied and saved as before; what is added to it stays as it is until it is accelerated
    again, and the report says so.

    Args:
        modules: the networks, each a root whose forward is called. DistributedDataParallel wrappers are looked through.
        ops: "all", or names from "spectral_norm", "double_backward" and those above.
        measure: whether to find out what is gained. Of the steps that torch's optimizers make from now on, some dozens
            run as they are, chosen at random, and all are timed; nothing is computed twice, and nothing waits. Then the
            report's last line says "measured: 1.40x" or "measured: no gain"; where they are slower, the networks
            are restored.

    Returns:
        A report with a row for everything that was found: what runs now, or why it stays as it is. It follows the
        forwards to come; `print` it after the first, or take `to_dict()`. Where next to nothing of a forward's work is
        in calls that are replaced, its last line says so.

    Raises:
        TypeError: an argument that is not a module.
        ValueError: no module, an unknown op, or a module in a network that is accelerated already.

    Derivatives: those of the functions, to any order.
    """
    ops = _checked(modules, ops)
    roots = [unwrap(module) for module in modules]
    for i, root in enumerate(roots):
        _check_whole(root, f"modules[{i}]")
    report = Report([type(root).__name__ for root in roots], ops)
    for module, root in zip(modules, roots, strict=True):
        _restore(root)
        rows: list[Row] = []
        report.rows.append(rows)
        report.forwards.append(0)
        report.shares.append([])
        report.norms.append(group_spectral_norm(root) if "spectral_norm" in ops else None)
        report.roots.append(weakref.ref(root))
        wanted = [op for op in ops if op in chains.OPS]
        compiled = _compiled(module)
        if "double_backward" in ops and compiled is None:
            surround(root, DoubleBackward(rows))
        if compiled is not None and wanted:
            rows.append(Row(compiled, "torch.compile", PLAIN, "calls are fused by the compiler"))
        else:
            surround(root, _ChainFinder(wanted, report, len(report.rows) - 1))
    if measure:
        measurement = Measurement(report, lambda: [_restore(root()) for root in report.roots if root() is not None])
        for root in dict.fromkeys(roots):
            surround(root, measurement)
    return report


def restore(*modules: nn.Module) -> None:
    """Undo `accelerate`: nothing of it is left in these networks and their parts.

    Args:
        modules: networks that were accelerated; others are left as they are.

    Raises:
        TypeError: an argument that is not a module.
        ValueError: no module.
    """
    _checked(modules, "all")
    for module in modules:
        _restore(unwrap(module))


def _checked(modules: Sequence[Any], ops: Any) -> list[str]:
    if not modules:
        raise ValueError("modules must be one network or more, got none")
    for i, module in enumerate(modules):
        if not isinstance(module, nn.Module):
            raise TypeError(f"modules[{i}] must be an nn.Module, got {type(module).__name__}")
    names = list(OPS) if isinstance(ops, str) and ops == "all" else ops
    if not isinstance(names, (list, tuple)) or any(not isinstance(n, str) or n not in OPS for n in names):
        raise ValueError(f'ops must be "all" or a list of names from {", ".join(OPS)}, got {check.short(ops)}')
    return list(names)


def _restore(root: nn.Module) -> None:
    for module, ours in _surroundings(root):
        release(module, ours)
        if isinstance(ours, Measurement):
            ours.stop()
    if is_grouped(root):
        ungroup_spectral_norm(root)


def _surroundings(root: nn.Module) -> list[tuple[nn.Module, Any]]:
    """The modules in a network that something of ours runs around, and what."""
    ours = (_ChainFinder, Scope, DoubleBackward, Measurement)
    return [(part, each) for part in root.modules() for each in surroundings(part) if isinstance(each, ours)]


def _check_whole(root: nn.Module, name: str) -> None:
    """Not a part of a network that is accelerated."""
    known = [each for _, each in _surroundings(root)]
    for each in known:
        if isinstance(each, Scope) and each.finder not in known:
            raise ValueError(
                f"{name} must not be a part of a network that is accelerated already: accelerate that one, or call "
                f"fastgan.restore on it first (got a {type(root).__name__})"
            )


def _compiled(module: nn.Module) -> str | None:
    """Path of what torch.compile has taken over."""
    for path, part in module.named_modules():
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            return path
    return None


class _ChainFinder(Around):
    """Looks at the first forward of every kind, and opens scopes where it found chains."""

    def __init__(self, ops: list[str], report: Report, index: int):
        self.ops, self.report, self.index = ops, report, index
        self.seen: set[CallState] = set()
        self.scopes: dict[str, Scope] = {}  # by path
        self.rows: dict[tuple[str, str, int], Row] = {}

    def around(self, module: nn.Module, args: tuple, call: Callable[[], Any]) -> Any:
        """With a recording, once for every kind of forward."""
        state = CallState.of(module)
        if not self.ops or state in self.seen or is_looking() or not can_defer():
            return call()
        recorder = ChainRecorder(module)
        out = recorder.watch(call)
        with LOCK:
            if state not in self.seen:
                self._found(module, state, recorder)
        return out

    def passed_by(self, by: str) -> None:
        """Add a row for it, once."""
        row = Row("", by, PLAIN, _PASSES_BY.get(by, ""))
        rows = self.report.rows[self.index]
        with LOCK:
            if row.reason and row not in rows:
                rows.append(row)

    def _found(self, module: nn.Module, state: CallState, recorder: ChainRecorder) -> None:
        """Defer its chains in such forwards from now on. After an interrupt this is done once more."""
        found = [chain for chain in recorder.chains() if chain.op in self.ops]
        paths = {chain.scopes[-1][0] for chain in found if not chain.reason}
        for chain in found:
            row = self._row(chain, state)
            if not chain.reason:
                # Scopes do not nest: the outermost one has it.
                path, number = next(scope for scope in chain.scopes if scope[0] in paths)
                if path not in self.scopes:
                    self.scopes[path] = scope = Scope(self)
                    surround(module.get_submodule(path), scope)
                self.scopes[path].put(state, number, Site(row, len(chain.steps) - 1))
        replaced = {call for chain in found if not chain.reason for call in chain.calls}
        norms = self.report.norms[self.index]
        weights = sum(prod(layer.shape) for layer in norms.grouped) if norms is not None else 0
        self.report.shares[self.index].append(share(recorder.work, replaced, weights))
        self.report.forwards[self.index] += 1
        self.seen.add(state)

    def _row(self, chain: Chain, state: CallState) -> Row:
        """Its line of the report: one for all kinds of forward in which the same happens."""
        row = Row(chain.path, " -> ".join(chain.steps), PLAIN if chain.reason else _RUNS[chain.op], chain.reason)
        place = row.path, row.found, chain.scopes[0][1]
        known = self.rows.setdefault(place, row)
        if known is not row:
            if known == row:
                return known
            row.found += f" ({state})"
        self.report.rows[self.index].append(row)
        return row
