"""What `--plain` computes penalties with: the formulas as codebases write them, by double backward in plain torch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.penalty import R1, R2, PenalizedLoss, Penalty


def penalized_loss(
    critic: Callable[..., Tensor],
    real: Tensor,
    fake: Tensor,
    adversarial: Callable[[Tensor, Tensor], Tensor],
    penalties: Sequence[Penalty] = (),
    *,
    real_args: Sequence[Any] = (),
    fake_args: Sequence[Any] = (),
    every: int = 1,
    step: int = 0,
) -> PenalizedLoss:
    """`fastgan.penalty.penalized_loss` of R1, R2 and WGANGP; samples [N, ...]."""
    due = penalties if step % every == 0 else ()
    real, fake = (x.detach().requires_grad_(bool(due)) for x in (real, fake))
    real_logits, fake_logits = critic(real, *real_args), critic(fake, *fake_args)
    loss = adversarial_loss = adversarial(real_logits, fake_logits)
    values = {}
    for penalty in due:
        if isinstance(penalty, (R1, R2)):
            logits, x = (real_logits, real) if isinstance(penalty, R1) else (fake_logits, fake)
            value = every * penalty.gamma / 2 * _squared_norms(logits, x).mean()
        else:
            eps = torch.rand(len(real), dtype=real.dtype, device=real.device).view(-1, *[1] * (real.ndim - 1))
            x = (eps * real + (1 - eps) * fake).detach().requires_grad_()
            value = every * penalty.weight * (_squared_norms(critic(x, *real_args), x).sqrt() - 1).square().mean()
        values[penalty.name] = value.detach()
        loss = loss + value
    logits = real_logits.detach(), fake_logits.detach()
    return PenalizedLoss(loss, adversarial_loss.detach(), values, *logits, "double_backward", "plain PyTorch")


def _squared_norms(logits: Tensor, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)
