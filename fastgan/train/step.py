"""The whole training step."""

from collections.abc import Callable, Sequence

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


def train_step(
    G: nn.Module,
    D: nn.Module,
    ema: nn.Module,
    opt_g: Optimizer,
    opt_d: Optimizer,
    reals: Sequence[Tensor],
    *,
    z_dim: int,
    ema_decay: float,
    penalties: Sequence[Penalty] = (),
    penalty_every: int = 1,
    updates: int = 0,
) -> dict[str, Tensor]:
    """One update of D for each batch in `reals`, one of G, one of G's moving average.

    The last fake images serve both D's last update and G's, so G runs once per batch. Latents, and the points of
    penalties, are drawn from torch's global generator. G, D: networks with all parameters trainable.

    reals: batches [N, C, H, W] in [-1, 1]. penalties: on D's input gradients, in every `penalty_every`-th of its
    updates, of which there were `updates` before. Returns the last losses, scalars on the device; a penalty is among
    them if an update had it.
    """
    losses: dict[str, Tensor] = {}
    D.requires_grad_(True)
    for update, real in enumerate(reals, updates):
        fake = G(torch.randn(len(real), z_dim, device=real.device, dtype=real.dtype))
        if penalties:
            out = penalized_loss(
                D, real, fake.detach(), adversarial=hinge_d, penalties=penalties, every=penalty_every, step=update
            )
            loss_d, parts = out.loss, {"loss_d": out.adversarial, **out.penalties}
        else:
            loss_d = hinge_d(D(real), D(fake.detach()))
            parts = {"loss_d": loss_d.detach()}
        losses |= parts
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()

    D.requires_grad_(False)
    loss_g = hinge_g(D(fake))
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()

    ema_update(ema, G, ema_decay)
    return {**losses, "loss_g": loss_g.detach()}
