"""A plain WGAN-GP on scikit-learn's digits, with the gradient penalty taken from fastgan: see THE ONE LINE.

    python examples/wgan_gp.py --steps 2000 --out samples.png
    python examples/wgan_gp.py --steps 2000 --plain          # the same values by double backward, to compare

Needs fastgan[train]. Source: I. Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgan.penalty import gradient_penalty
from fastgan.train.data import load_images
from fastgan.train.sample import generate, save_grid

Z_DIM, WIDTH, BATCH, N_CRITIC, WEIGHT = 64, 32, 32, 5, 10.0


def make_generator() -> nn.Module:
    """[N, Z_DIM] -> images [N, 1, 32, 32] in (-1, 1)."""
    return nn.Sequential(
        nn.Linear(Z_DIM, 4 * WIDTH * 16, bias=False),
        nn.Unflatten(1, (4 * WIDTH, 4, 4)),
        nn.BatchNorm2d(4 * WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * WIDTH, 2 * WIDTH, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, 2, 1, bias=False),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(WIDTH, 1, 4, 2, 1),
        nn.Tanh(),
    )


def make_critic() -> nn.Module:
    """Images [N, 1, 32, 32] -> [N, 1]."""
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(WIDTH, 2 * WIDTH, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * WIDTH, 4 * WIDTH, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(4 * WIDTH * 16, 1),
    )


def plain_gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, weight: float) -> Tensor:
    """weight * mean (|dD/dx| - 1)^2 at random interpolates, as most codebases write it."""
    eps = torch.rand(len(real), 1, 1, 1)
    x = (eps * real + (1 - eps) * fake).requires_grad_()
    logits = critic(x)
    (g,) = torch.autograd.grad(logits, x, torch.ones_like(logits), create_graph=True)
    return weight * (g.flatten(1).norm(dim=1) - 1).square().mean()


def train(steps: int, plain: bool, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Train for `steps` updates of the generator. Returns it, and the critic's last loss."""
    torch.manual_seed(seed)
    images = load_images("digits", 1).pixels / 127.5 - 1
    G, D = make_generator(), make_critic()
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.0, 0.9)) for net in (G, D))
    start = time.perf_counter()
    for step in range(1, steps + 1):
        for _ in range(N_CRITIC):
            real = images[torch.randint(len(images), (BATCH,))]
            with torch.no_grad():
                fake = G(torch.randn(BATCH, Z_DIM))
            loss = D(fake).mean() - D(real).mean()
            if plain:
                loss = loss + plain_gradient_penalty(D, real, fake, WEIGHT)
            else:
                loss = loss + gradient_penalty(D, real, fake, WEIGHT)  # THE ONE LINE
            opt_d.zero_grad()
            loss.backward()
            opt_d.step()

        opt_g.zero_grad()
        (-D(G(torch.randn(BATCH, Z_DIM))).mean()).backward()
        opt_g.step()
        if step % 100 == 0 or step == steps:
            speed = step / (time.perf_counter() - start)
            print(f"step {step}: critic's loss {loss.item():.4f}, {speed:.1f} steps/s")
    return G, loss.detach()


def main() -> None:
    """Train, and write a grid of samples where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="updates of the generator (%(default)s)")
    parser.add_argument("--plain", action="store_true", help="the penalty by double backward")
    parser.add_argument("--out", type=Path, metavar="PNG", help="write samples here")
    args = parser.parse_args()
    G, _ = train(args.steps, args.plain)
    if args.out:
        save_grid(generate(G, torch.randn(64, Z_DIM)), args.out)


if __name__ == "__main__":
    main()
