"""One call of the critic, and the penalties on its input gradients, by the engine that serves them."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.check import describe
from fastgan.convolution.double_backward import no_more_gradients
from fastgan.modes import run_under
from fastgan.penalty.arguments import is_of_samples
from fastgan.penalty.double_backward import efficient_convolutions, input_gradient
from fastgan.penalty.kinds import Penalty
from fastgan.penalty.linearized import Linearization
from fastgan.penalty.proof import WAITS, needs_exact_forward, why_not_exact
from fastgan.penalty.tape import RefusedError

ASKED_FOR = 'engine="double_backward" was asked for'
ALONE = (
    "no batch serves both the loss and this penalty: double backward without its zeros costs what the linearized "
    "engine does, and little is gained where the critic is not piecewise linear"
)


class CriticCall(NamedTuple):
    """What the critic is called on: points, further arguments; and the penalties on their gradients."""

    points: Callable[[], Tensor]
    args: Sequence[Any]
    penalties: list[Penalty]


class Batch:
    """Calls by name that are made as one, and the penalties on its input gradients.

    `logits` are the critic's; `rows` says which are whose. Where one replay serves loss and penalty, `leaf` stands for
    them in the adversarial loss. `shared` says whether that loss takes any of them: only then is anything gained by a
    replay, which for a penalty alone takes as many forwards as double backward.
    """

    def __init__(self, critic: Callable, calls: dict[str, CriticCall], engine: str, check: str, shared: bool):
        points, every_args, every_penalties = zip(*calls.values(), strict=True)
        xs = [draw().detach() for draw in points]
        args, penalties = _joined(every_args), [penalty for several in every_penalties for penalty in several]
        ends = list(accumulate(map(len, xs), initial=0))
        self.rows = {name: slice(*ends[i : i + 2]) for i, name in enumerate(calls)}
        self.penalties, self.engine, self.forward, self.leaf = penalties, engine, None, None
        self.x = (xs[0] if len(xs) == 1 else torch.cat(xs)).requires_grad_(bool(penalties))
        self.path = "double_backward"

        def run(x: Tensor) -> Tensor:
            return _logits(critic(x, *args))

        if not penalties:
            self.reason, self.logits = "", run(self.x)
        elif engine == "linearized" and not len(self.x):
            raise RuntimeError('engine="linearized" cannot serve an empty batch: nothing can be proved on it')
        elif engine == "double_backward" or (engine == "auto" and not (shared and len(self.x))):
            mode = efficient_convolutions()
            self.logits = run_under(mode, partial(run, self.x))
            reason = ASKED_FOR if engine != "auto" else ALONE if len(self.x) else "the batch is empty"
            self.reason = joined_reasons(reason, *mode.reasons)
        else:
            self._linearize(critic, run, check)

    def _linearize(self, critic: Callable, run: Callable[[Tensor], Tensor], check: str) -> None:
        forward = Linearization(run, self.x, needs_exact_forward(critic, self.x, check))
        self.logits, refusal = forward.logits, forward.tape.refusal
        obstacle = why_not_exact(critic, forward, check)
        if self.engine == "linearized" and (refusal or obstacle not in ("", WAITS)):
            raise RuntimeError(f'engine="linearized" cannot serve this critic: {obstacle or refusal}')
        self.reason = joined_reasons(refusal, obstacle, *forward.reasons) or "the critic is piecewise linear"
        if obstacle:
            return
        self.forward, self.path = forward, "linearized" if forward.complete else "linearized_trunk"
        if forward.complete and forward.one_logit:
            self.leaf = forward.logits.detach().requires_grad_()

    def given(self, name: str) -> Tensor:
        """What the adversarial loss gets of a call, and may change in place."""
        return (self.logits if self.leaf is None else self.leaf)[self.rows[name]].clone()

    def penalize(self, adversarial: Tensor, every: int, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The penalties by name. What they do not carry of the gradient goes to `pairs`, as tensors and gradients."""
        if not self.penalties:
            return {}
        if self.forward is None:
            return self._differentiated_twice(every)
        f = None
        if self.leaf is not None and adversarial.requires_grad:
            (f,) = torch.autograd.grad(adversarial, self.leaf, retain_graph=True, allow_unused=True)
        g, deltas = self.forward.input_gradient()
        g.requires_grad_()
        values = self._values(g, every)
        (v,) = torch.autograd.grad(sum(values.values()), g)
        try:
            pairs += self.forward.gradients(v, None if f is None else f.flatten(), deltas)
        except RefusedError as refused:
            # Another call of the critic has changed a constant of this one.
            if self.engine == "linearized":
                raise RuntimeError(f'engine="linearized" cannot serve this critic: {refused}') from None
            self.path, self.reason = "double_backward", str(refused)
            pairs += [] if f is None else [(self.logits, f)]
            return self._differentiated_twice(every)
        # The graph is not needed any more, unless the adversarial loss goes through it.
        self.forward = None
        if self.leaf is not None:
            self.logits = self.logits.detach()
        return {name: value.detach() for name, value in values.items()}

    def _differentiated_twice(self, every: int) -> dict[str, Tensor]:
        g = input_gradient(self.logits, self.x)
        no_more_gradients(self.x)
        return self._values(g, every)

    def _values(self, g: Tensor, every: int) -> dict[str, Tensor]:
        everything = slice(None)  # where the points are the penalty's own
        return {p.name: every * p.value(g[self.rows.get(p.points, everything)]) for p in self.penalties}


def joined_reasons(*reasons: str) -> str:
    """One sentence of several, each once; empty ones are left out."""
    return "; ".join(dict.fromkeys(filter(None, reasons)))


def _joined(every_args: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The arguments of calls that are made as one: those of samples concatenated."""
    first, *others = every_args
    if not others:
        return first
    return [torch.cat(given) if is_of_samples(given[0]) else given[0] for given in zip(*every_args, strict=True)]


def _logits(output: Any) -> Tensor:
    """The logits among a critic's outputs."""
    logits = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"critic must return logits [N, ...], or a tuple or list that begins with them, got {describe(logits)}"
        )
    return logits
