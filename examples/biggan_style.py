"""A class-conditional GAN in the style of BigGAN, on random images, accelerated: see THE ONE LINE.

    python examples/biggan_style.py --steps 3
    python examples/biggan_style.py --steps 3 --plain        # the same values, as torch computes them

Source: A. Brock et al., Large Scale GAN Training for High Fidelity Natural Image Synthesis, ICLR 2019.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import fastgan

Z_DIM, CLASSES, WIDTH, BATCH = 32, 4, 32, 8


def convolution(c_in: int, c_out: int, kernel: int = 3) -> nn.Module:
    """With spectral norm."""
    return spectral_norm(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2))


class ConditionalNorm(nn.Module):
    """Batch normalization with gains and biases that a vector sets."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = (spectral_norm(nn.Linear(Z_DIM, channels, bias=False)) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[N, C, H, W], [N, Z_DIM] -> [N, C, H, W]."""
        return self.norm(x) * (1 + self.gain(y))[:, :, None, None] + self.bias(y)[:, :, None, None]


class UpBlock(nn.Module):
    """Twice the size."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = ConditionalNorm(channels), ConditionalNorm(channels)
        self.conv1, self.conv2 = convolution(channels, channels), convolution(channels, channels)
        self.shortcut = convolution(channels, channels, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[N, C, H, W], [N, Z_DIM] -> [N, C, 2H, 2W]."""
        h = F.interpolate(F.relu(self.norm1(x, y)), scale_factor=2)
        h = self.conv2(F.relu(self.norm2(self.conv1(h), y)))
        return h + self.shortcut(F.interpolate(x, scale_factor=2))


class DownBlock(nn.Module):
    """Half the size."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1, self.conv2 = convolution(c_in, c_out), convolution(c_out, c_out)
        self.shortcut = convolution(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H/2, W/2]."""
        h = self.conv2(F.relu(self.conv1(F.relu(x))))
        return F.avg_pool2d(h, 2) + F.avg_pool2d(self.shortcut(x), 2)


class Generator(nn.Module):
    """Noise and labels to images of 32x32."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, Z_DIM)
        self.first = spectral_norm(nn.Linear(Z_DIM, WIDTH * 16))
        self.blocks = nn.ModuleList(UpBlock(WIDTH) for _ in range(3))
        self.norm, self.last = nn.BatchNorm2d(WIDTH), convolution(WIDTH, 3)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """[N, Z_DIM], [N] -> [N, 3, 32, 32] in (-1, 1)."""
        y = self.embedding(labels) + z
        x = self.first(z).view(-1, WIDTH, 4, 4)
        for block in self.blocks:
            x = block(x, y)
        return torch.tanh(self.last(F.relu(self.norm(x))))


class Discriminator(nn.Module):
    """A projection discriminator."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(DownBlock(3, WIDTH), DownBlock(WIDTH, WIDTH), DownBlock(WIDTH, WIDTH))
        self.linear = spectral_norm(nn.Linear(WIDTH, 1))
        self.embedding = spectral_norm(nn.Embedding(CLASSES, WIDTH))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """[N, 3, 32, 32], [N] -> [N, 1]."""
        h = F.relu(self.blocks(x)).sum((2, 3))
        return self.linear(h) + (self.embedding(labels) * h).sum(1, keepdim=True)


def train(steps: int, plain: bool, seed: int = 0) -> tuple[nn.Module, list[float]]:
    """Train for `steps` updates of both networks. Returns the generator, and D's loss after every step."""
    torch.manual_seed(seed)
    images, labels = torch.rand(64, 3, 32, 32) * 2 - 1, torch.randint(CLASSES, (64,))
    G, D = Generator(), Discriminator()
    if not plain:
        fastgan.accelerate(G, D)  # THE ONE LINE
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.0, 0.999)) for net in (G, D))
    losses = []
    for _ in range(steps):
        z, y, chosen = torch.randn(BATCH, Z_DIM), torch.randint(CLASSES, (BATCH,)), torch.randint(64, (BATCH,))
        with torch.no_grad():
            fake = G(z, y)
        logits = D(torch.cat([fake, images[chosen]]), torch.cat([y, labels[chosen]]))
        loss = F.relu(1 + logits[:BATCH]).mean() + F.relu(1 - logits[BATCH:]).mean()
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()

        opt_g.zero_grad()
        (-D(G(z, y), y).mean()).backward()
        opt_g.step()
        losses.append(loss.item())
    return G, losses


def main() -> None:
    """Train, and print the last loss and the speed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100, help="updates of both networks (%(default)s)")
    parser.add_argument("--plain", action="store_true", help="without fastgan")
    args = parser.parse_args()
    start = time.perf_counter()
    _, losses = train(args.steps, args.plain)
    speed = args.steps / (time.perf_counter() - start)
    print(f"step {args.steps}: discriminator's loss {losses[-1]:.4f}, {speed:.1f} steps/s")


if __name__ == "__main__":
    main()
