"""The critic's loss with penalties on its input gradients: one call, by the faster engine that is exact."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from fastgan.penalty.arguments import check_loss, check_together
from fastgan.penalty.batch import Batch, CriticCall, joined_reasons
from fastgan.penalty.kinds import Penalty
from fastgan.penalty.uncompiled import uncompiled

# From the slowest to the fastest.
PATHS = ("double_backward", "linearized_trunk", "linearized")
OF_LOSS = frozenset({"real", "fake"})  # the calls whose logits an adversarial loss takes


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
    check_loss(real, fake, adversarial, penalties, every, step, engine, check)
    if together:
        check_together(real, fake, real_args, fake_args)
    due = [penalty for penalty in penalties if step % every == 0]
    with torch.enable_grad():
        calls = _calls(real, fake, adversarial is not None, due, real_args, fake_args, generator)
        both = ("real", "fake") if together and {"real", "fake"} <= calls.keys() else ()
        losses = OF_LOSS if adversarial is not None else frozenset()
        groups = [both] * bool(both) + [(name,) for name in calls if name not in both]
        batches = [
            Batch(critic, {name: calls[name] for name in group}, engine, check, shared=not losses.isdisjoint(group))
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
        reason=joined_reasons(*(batch.reason for batch in due_in)) or "no penalty is due in this step",
    )


def _calls(
    real: Tensor,
    fake: Tensor | None,
    adversarial: bool,
    due: list[Penalty],
    real_args: Sequence[Any],
    fake_args: Sequence[Any],
    generator: torch.Generator | None,
) -> dict[str, CriticCall]:
    """The calls in order; points are drawn right before the call that takes them, as dropout's random numbers are."""
    calls: dict[str, CriticCall] = {}
    for name, x, args in (("real", real, real_args), ("fake", fake, fake_args)):
        there = [penalty for penalty in due if penalty.points == name]
        if there or (adversarial and x is not None):
            points = partial(there[0].inputs, real, fake, generator) if there else x.detach
            calls[name] = CriticCall(points, args, there)
    for penalty in due:
        if penalty.points not in calls:
            calls[penalty.name] = CriticCall(partial(penalty.inputs, real, fake, generator), real_args, [penalty])
    return calls


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
