"""The whole training step, on one screen."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan.optim import ema_update
from fastgan.penalty import R1, R2, WGANGP, Penalty, penalized_loss

PENALTIES: dict[str, Callable[[float], list[Penalty]]] = {
    "none": lambda weight: [],
    "r1": lambda weight: [R1(weight)],
    "r1r2": lambda weight: [R1(weight), R2(weight)],
    "wgan-gp": lambda weight: [WGANGP(weight)],
}


def hinge_d(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's hinge loss, mean(max(0, 1 - D(x))) + mean(max(0, 1 + D(G(z))))."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def hinge_g(fake_logits: Tensor) -> Tensor:
    """The generator's hinge loss, -mean(D(G(z)))."""
    return -fake_logits.mean()


class Batch(NamedTuple):
    """Real samples [N, ...], and what both networks are told about each: classes, say. G takes it after latents."""

    real: Tensor
    given: tuple[Tensor, ...] = ()


def train_step(
    G: nn.Module,
    D: nn.Module,
    ema: nn.Module,
    opt_g: Optimizer,
    opt_d: Optimizer,
    batches: Sequence[Batch],
    *,
    latents: Callable[[Tensor], Tensor],
    ema_decay: float,
    loss_d: Callable[[Tensor, Tensor], Tensor] = hinge_d,
    loss_g: Callable[[Tensor], Tensor] = hinge_g,
    penalties: Sequence[Penalty] = (),
    penalty_every: int = 1,
    updates: int = 0,
    penalized: Callable = penalized_loss,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """One update of D for each batch, one of G, one of G's moving average.

    The last fake samples serve both D's last update and G's, so G runs once per batch. Latents, and the points of
    penalties, are drawn from torch's global generator. G, D: networks with all parameters trainable.

    latents: of real samples, as many latent vectors. penalties: on D's input gradients, in every `penalty_every`-th of
    its updates, of which there were `updates` before. penalized: `fastgan.penalty.penalized_loss`, or its plain form.
    precision: of forwards and losses; "bf16" is torch's autocast: parameters, gradients and optimizers stay float32.
    Returns the last losses, scalars on the device; a penalty is among them if an update had it.
    """
    losses: dict[str, Tensor] = {}
    forward = torch.autocast(batches[0].real.device.type, torch.bfloat16, enabled=precision == "bf16")
    D.requires_grad_(True)
    for update, (real, given) in enumerate(batches, updates):
        with forward:
            fake = G(latents(real), *given)
            if penalties:
                options = {"penalties": penalties, "every": penalty_every, "step": update}
                out = penalized(D, real, fake.detach(), loss_d, real_args=given, fake_args=given, **options)
                loss, parts = out.loss, {"loss_d": out.adversarial, **out.penalties}
            else:
                loss = loss_d(D(real, *given), D(fake.detach(), *given))
                parts = {"loss_d": loss.detach()}
        losses |= parts
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()

    D.requires_grad_(False)
    with forward:
        loss = loss_g(D(fake, *given))
    opt_g.zero_grad()
    loss.backward()
    opt_g.step()

    ema_update(ema, G, ema_decay)
    return {**losses, "loss_g": loss.detach()}
