"""The whole training step."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from fastgan.optim import ema_update


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
) -> dict[str, Tensor]:
    """One update of D for each batch in `reals`, one of G, one of G's moving average.

    The last fake images serve both D's last update and G's, so G runs once per batch. Latents are drawn from torch's
    global generator. G, D: networks with all parameters trainable.

    reals: batches [N, C, H, W] in [-1, 1]. Returns the last losses, scalars on the device.
    """
    D.requires_grad_(True)
    for real in reals:
        fake = G(torch.randn(len(real), z_dim, device=real.device, dtype=real.dtype))
        loss_d = hinge_d(D(real), D(fake.detach()))
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()

    D.requires_grad_(False)
    loss_g = hinge_g(D(fake))
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()

    ema_update(ema, G, ema_decay)
    return {"loss_d": loss_d.detach(), "loss_g": loss_g.detach()}
