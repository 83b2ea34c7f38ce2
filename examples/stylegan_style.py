"""A small StyleGAN2 with its filtered resampling, on random images, with its ops patched: see THE ONE LINE.

    python examples/stylegan_style.py --steps 3
    python examples/stylegan_style.py --steps 3 --plain      # the same values, as torch computes them

A codebase of the StyleGAN family has its ops in modules, `torch_utils.ops` or `op`; `fastgan.patch` puts fastgan's
into them. Here the module is this file's own: `op`, with the names and arguments of the package of that name.

Source: T. Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020.
"""

import argparse
import sys
import time
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgan

Z_DIM, WIDTH, BATCH = 32, 32, 8

# --- the codebase's ops, in plain torch ---


def fused_leaky_relu(x: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    """Bias, leaky ReLU, gain."""
    return F.leaky_relu(x + bias.view(1, -1, *[1] * (x.ndim - 2)), negative_slope) * scale


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Zeros between the pixels, padding, a filter, and every `down`-th pixel."""
    n, c, h, w = x.shape
    spread = x.new_zeros(n * c, 1, h, up, w, up)
    spread[:, :, :, 0, :, 0] = x.reshape(n * c, 1, h, w)
    padded = F.pad(spread.view(n * c, 1, h * up, w * up), (*pad, *pad))
    y = F.conv2d(padded, kernel.flip(0, 1)[None, None].to(x.dtype), stride=down)
    return y.view(n, c, *y.shape[2:])


op = ModuleType("op")
op.fused_leaky_relu, op.upfirdn2d = fused_leaky_relu, upfirdn2d

# --- the codebase's networks ---


def binomial(gain: float = 1.0) -> Tensor:
    """The filter [1, 3, 3, 1] of both axes."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return gain * taps[:, None] * taps


class ModulatedConv(nn.Module):
    """A 3x3 convolution with a weight for every sample, to twice the size."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3))
        self.style = nn.Linear(Z_DIM, c_in)
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.register_buffer("kernel", binomial(gain=4))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[N, C_in, H, W], [N, Z_DIM] -> [N, C_out, 2H, 2W]."""
        style = self.style(w) + 1
        norm = (style.square() @ self.weight.square().sum((2, 3)).t() + 1e-8).rsqrt()
        x = op.upfirdn2d(x * style[:, :, None, None], self.kernel, up=2, pad=(2, 1))
        x = F.conv2d(x, self.weight, padding=1) * norm[:, :, None, None]
        return op.fused_leaky_relu(x, self.bias)


class Generator(nn.Module):
    """Noise to images of 32x32."""

    def __init__(self):
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(Z_DIM, Z_DIM), nn.LeakyReLU(0.2), nn.Linear(Z_DIM, Z_DIM))
        self.constant = nn.Parameter(torch.randn(1, WIDTH, 4, 4))
        self.convs = nn.ModuleList(ModulatedConv(WIDTH, WIDTH) for _ in range(3))
        self.last = nn.Conv2d(WIDTH, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        """[N, Z_DIM] -> [N, 3, 32, 32]."""
        w = self.mapping(F.normalize(z) * Z_DIM**0.5)
        x = self.constant.expand(len(z), -1, -1, -1)
        for conv in self.convs:
            x = conv(x, w)
        return self.last(x)


class DownConv(nn.Module):
    """A 3x3 convolution, to half the size."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3) / (3 * c_in**0.5))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.register_buffer("kernel", binomial())

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H/2, W/2]."""
        x = op.upfirdn2d(x, self.kernel, pad=(2, 2))
        return op.fused_leaky_relu(F.conv2d(x, self.weight, stride=2), self.bias)


def make_discriminator() -> nn.Module:
    """[N, 3, 32, 32] -> [N, 1]."""
    convs = (DownConv(3, WIDTH), DownConv(WIDTH, WIDTH), DownConv(WIDTH, WIDTH))
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(WIDTH * 16, 1))


def train(steps: int, plain: bool, seed: int = 0) -> tuple[nn.Module, list[float]]:
    """Train for `steps` updates of both networks. Returns the generator, and D's loss, with R1, after every step."""
    torch.manual_seed(seed)
    images = torch.rand(64, 3, 32, 32) * 2 - 1
    G, D = Generator(), make_discriminator()
    sys.modules["op"] = op  # as `import op` does
    if not plain:
        fastgan.patch("rosinality")  # THE ONE LINE
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.0, 0.99)) for net in (G, D))
    losses = []
    for _ in range(steps):
        z, real = torch.randn(BATCH, Z_DIM), images[torch.randint(64, (BATCH,))].requires_grad_()
        with torch.no_grad():
            fake = G(z)
        on_real = D(real)
        (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        loss = F.softplus(-on_real).mean() + F.softplus(D(fake)).mean() + 5 * gradient.square().sum() / BATCH
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()

        opt_g.zero_grad()
        F.softplus(-D(G(z))).mean().backward()
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
