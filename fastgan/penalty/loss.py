"""The critic's loss with penalties on its input gradients: one call, by the faster engine that is exact."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastgan import check as _arguments
from fastgan.convolution.double_backward import no_more_gradients
from fastgan.modes import run_under
from fastgan.penalty.double_backward import efficient_convolutions, input_gradient
from fastgan.penalty.kinds import Penalty
from fastgan.penalty.linearized import Linearization
from fastgan.penalty.proof import WAITS, needs_exact_forward, why_not_exact
from fastgan.penalty.tape import RefusedError
from fastgan.penalty.uncompiled import uncompiled

ENGINES = ("auto", "linearized", "double_backward")
CHECKS = ("first", "always", "never")
PATHS = ("double_backward", "linearized_trunk", "linearized")
OF_LOSS = frozenset({"real", "fake"})  # the calls whose logits an adversarial loss takes
ASKED_FOR = 'engine="double_backward" was asked for'
ALONE = (
    "no batch serves both the loss and this penalty: double backward without its zeros costs what the linearized "
    "engine does, and little is gained where the critic is not piecewise linear"
)


@dataclass(frozen=True)
class PenalizedLoss:
    """What `penalized_loss` returns.

    Args:
        loss: adversarial loss and penalties [], to call `.backward()` on, once and without create_graph.
        adversarial: the adversarial loss [] alone, detached; zero where there is none.
        penalties: each penalty [] by name, detached.
        real_logits: the critic's logits, detached; None where it was not called.
        fake_logits: likewise.
        path: "linearized", "linearized_trunk" where that holds of all but the critic's last layers, "double_backward",
            or "none" where no penalty was due. Of several, the one furthest on in this list, "none" aside.
        reason: why, for reading.
    """

    loss: Tensor
    adversarial: Tensor
    penalties: dict[str, Tensor]
    real_logits: Tensor | None
    fake_logits: Tensor | None
    path: str
    reason: str


@uncompiled
def penalized_loss(
    critic: Callable[..., Any],
    real: Tensor,
    fake: Tensor | None = None,
    adversarial: Callable[[Tensor, Tensor | None], Tensor] | None = None,
    penalties: Sequence[Penalty] = (),
    *,
    real_args: Sequence[Any] = (),
    fake_args: Sequence[Any] = (),
    together: bool = False,
    every: int = 1,
    step: int = 0,
    engine: Literal["auto", "linearized", "double_backward"] = "auto",
    check: Literal["first", "always", "never"] = "first",
    generator: torch.Generator | None = None,
) -> PenalizedLoss:
    """Adversarial loss plus penalties on input gradients; `.loss.backward()` gives their exact gradients.

    The critic is called on `real`, then on `fake`, then on the points of each other penalty, each once. If it is
    piecewise linear in its input and treats every sample by itself (convolutions, leaky ReLU, pooling, residual sums,
    ...), a batch with adversarial loss and penalty costs four times its forward instead of six to nine: nothing is
    differentiated twice. That is found out by watching its operations, and proved once. Any other critic gets double
    backward, and so does a batch with a penalty alone, as interpolates are, where four forwards are enough for it.
    Operations whose fused form can be differentiated only once, such as attention, run in one that can be twice.

    Args:
        critic: a module or a function of (x, *args) that returns logits [N, ...], or a tuple or list that begins with
            them. A module's parameters get their gradients; so does whatever else it computes with.
        real: samples [N, ...], taken as data: no gradient reaches them.
        fake: samples [M, ...], taken as data; None for a loss of real samples alone.
        adversarial: (real logits, fake logits or None) -> loss []. None for penalties alone.
        penalties: of `fastgan.penalty`, each name once.
        real_args: what the critic takes after `real`, and after points made from it.
        fake_args: what the critic takes after `fake`.
        together: call the critic once, on `real` and `fake` concatenated; so with their arguments, which must
            be tensors of samples, or the same for both. It is faster where penalties are due on both. If the critic
            computes with statistics of its batch, or draws random numbers, it is another loss.
        every: lazy regularisation: penalties are due when `step` is a multiple, and count `every` times as much.
        step: the number of this step.
        engine: "linearized" takes that engine for a penalty alone, too, and raises for a critic that it cannot serve.
        check: when to prove that the critic is what it seems: "first" time for every critic and sequence of operations,
            "always", or "never".
        generator: of the random points of penalties.

    Raises:
        RuntimeError: `engine="linearized"`, and the critic breaks a premise: which, and where; an operation has no
            second derivative in torch: which; in inference mode. In the backward: under create_graph.
        TypeError, ValueError: an argument that is not as above.

    Under torch.no_grad the values are the same and nothing can be differentiated. A backward leaves the .grad of
    parameters that the loss does not depend on as it was: with penalties alone, also that of biases that only shift
    what the gradient does not see. What torch.compile was put on runs as written in here; a function around this call
    that is compiled with fullgraph=True raises.

    Source: fastgan; the identity is derived in `fastgan.penalty.linearized`.
    """
    _check(real, fake, adversarial, penalties, every, step, engine, check)
    if together:
        _check_together(real, fake, real_args, fake_args)
    due = [penalty for penalty in penalties if step % every == 0]
    with torch.enable_grad():
        calls = _calls(real, fake, adversarial is not None, due, real_args, fake_args, generator)
        both = ("real", "fake") if together and {"real", "fake"} <= calls.keys() else ()
        losses = OF_LOSS if adversarial is not None else frozenset()
        groups = [both] * bool(both) + [(name,) for name in calls if name not in both]
        batches = [
            _Batch(critic, {name: calls[name] for name in group}, engine, check, shared=not losses.isdisjoint(group))
            for group in groups
        ]
        batch_of = {name: batch for batch in batches for name in batch.rows}
        of_real, of_fake = batch_of.get("real"), batch_of.get("fake")
        # With nothing due, too, it can be called backward on.
        loss = real.new_zeros((), requires_grad=not calls)
        if adversarial is not None:
            loss = adversarial(of_real.given("real"), None if of_fake is None else of_fake.given("fake"))
        adversarial_loss, values, pairs = loss, {}, []
        for batch in batches:
            for name, value in batch.penalize(adversarial_loss, every, pairs).items():
                values[name] = value.detach()
                loss = loss + value
        loss = _Loss.apply([delta for _, delta in pairs], loss, *(tensor for tensor, _ in pairs))
    due_in = [batch for batch in batches if batch.penalties]
    paths = {batch.path for batch in due_in}
    return PenalizedLoss(
        loss=loss if torch.is_grad_enabled() else loss.detach(),
        adversarial=adversarial_loss.detach(),
        penalties=values,
        real_logits=None if of_real is None else of_real.logits[of_real.rows["real"]].detach(),
        fake_logits=None if of_fake is None else of_fake.logits[of_fake.rows["fake"]].detach(),
        path=next((path for path in PATHS if path in paths), "none"),
        reason=_joined_reasons(*(batch.reason for batch in due_in)) or "no penalty is due in this step",
    )


class _Call(NamedTuple):
    """What the critic is called on: points, further arguments; and the penalties on their gradients."""

    points: Callable[[], Tensor]
    args: Sequence[Any]
    penalties: list[Penalty]


def _calls(
    real: Tensor,
    fake: Tensor | None,
    adversarial: bool,
    due: list[Penalty],
    real_args: Sequence[Any],
    fake_args: Sequence[Any],
    generator: torch.Generator | None,
) -> dict[str, _Call]:
    """The calls in order.

    The points are drawn when their turn has come, as dropout's random numbers are.
    """
    calls: dict[str, _Call] = {}
    for name, x, args in (("real", real, real_args), ("fake", fake, fake_args)):
        there = [penalty for penalty in due if penalty.points == name]
        if there or (adversarial and x is not None):
            calls[name] = _Call(partial(there[0].inputs, real, fake, generator) if there else x.detach, args, there)
    for penalty in due:
        if penalty.points not in calls:
            calls[penalty.name] = _Call(partial(penalty.inputs, real, fake, generator), real_args, [penalty])
    return calls


class _Batch:
    """Calls by name that are made as one, and the penalties on its input gradients.

    `logits` are the critic's; `rows` says which are whose. Where one replay serves loss and penalty, `leaf` stands for
    them in the adversarial loss. `shared` says whether that loss takes any of them: only then is anything gained by a
    replay, which for a penalty alone takes as many forwards as double backward.
    """

    def __init__(self, critic: Callable, calls: dict[str, _Call], engine: str, check: str, shared: bool):
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
            self.reason = _joined_reasons(reason, *mode.reasons)
        else:
            self._linearize(critic, run, check)

    def _linearize(self, critic: Callable, run: Callable[[Tensor], Tensor], check: str) -> None:
        forward = Linearization(run, self.x, needs_exact_forward(critic, self.x, check))
        self.logits, refusal = forward.logits, forward.tape.refusal
        objections = why_not_exact(critic, forward, check)
        if self.engine == "linearized" and (refusal or objections not in ("", WAITS)):
            raise RuntimeError(f'engine="linearized" cannot serve this critic: {objections or refusal}')
        self.reason = _joined_reasons(refusal, objections, *forward.reasons) or "the critic is piecewise linear"
        if objections:
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


class _Loss(torch.autograd.Function):
    """(gradients, loss, *tensors) -> loss; its backward gives each tensor its gradient."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], loss: Tensor, *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the loss of penalized_loss can be differentiated once: call backward without create_graph"
            )
        return None, grad, *(gradient * grad.to(gradient.device) for gradient in ctx.gradients)


def _joined_reasons(*reasons: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, reasons)))


def _joined(every_args: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The arguments of calls that are made as one: those of samples concatenated."""
    first, *others = every_args
    if not others:
        return first
    return [torch.cat(given) if _is_of_samples(given[0]) else given[0] for given in zip(*every_args, strict=True)]


def _is_of_samples(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.ndim > 0


def _logits(output: Any) -> Tensor:
    """The logits among a critic's outputs."""
    logits = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(logits, Tensor):
        raise TypeError(
            "critic must return logits [N, ...], or a tuple or list that begins with them, "
            f"got {_arguments.describe(logits)}"
        )
    return logits


def _check(
    real: Any, fake: Any, adversarial: Any, penalties: Any, every: Any, step: Any, engine: Any, checks: Any
) -> None:
    for name, value in (("real", real), ("fake", fake)):
        if not isinstance(value, Tensor) and not (name == "fake" and value is None):
            raise TypeError(f"{name} must be a tensor [N, ...], got {_arguments.short(value)}")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("penalized_loss takes gradients: call it under torch.no_grad, not torch.inference_mode")
    if adversarial is not None and not callable(adversarial):
        raise TypeError(
            f"adversarial must be a function of two tensors or None, got {_arguments.describe(adversarial)}"
        )
    for i, penalty in enumerate(penalties):
        if not isinstance(penalty, Penalty):
            raise TypeError(
                f"penalties[{i}] must be a penalty such as R1(gamma=10.0), got {_arguments.describe(penalty)}"
            )
    names = [penalty.name for penalty in penalties]
    if len(set(names)) < len(names):
        raise ValueError(f"penalties must have each name once, got {', '.join(names)}")
    if adversarial is None and not names:
        raise ValueError("adversarial and penalties must not both be left out")
    for name, value, least in (("every", every, 1), ("step", step, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {_arguments.short(value)}")
    for name, value, accepted in (("engine", engine, ENGINES), ("check", checks, CHECKS)):
        _arguments.choice(value, name, accepted)


def _check_together(real: Tensor, fake: Tensor | None, real_args: Sequence[Any], fake_args: Sequence[Any]) -> None:
    if fake is None:
        return
    if (fake.shape[1:], fake.device) != (real.shape[1:], real.device):
        raise ValueError(
            f"fake must be samples like real with together=True, {_arguments.describe(real)}, "
            f"got {_arguments.describe(fake)}"
        )
    if len(real_args) != len(fake_args):
        raise ValueError(
            f"fake_args must be as many as real_args with together=True, {len(real_args)}, got {len(fake_args)}"
        )
    for i, (a, b) in enumerate(zip(real_args, fake_args, strict=True)):
        if _is_of_samples(a) and _is_of_samples(b):
            fits = (len(a), len(b), a.shape[1:], a.device) == (len(real), len(fake), b.shape[1:], b.device)
        else:
            fits = a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b))
        if not fits:
            raise ValueError(
                f"fake_args[{i}] must go with real_args[{i}] with together=True: tensors of samples, or the same for "
                f"both; got {_arguments.describe(a)} and {_arguments.describe(b)}"
            )
