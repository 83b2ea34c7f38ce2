"""What is piecewise linear but hard to see: either engine may serve it, but the answer must be right."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from critics.zoo import Call, Parameters, conv, entry, stem_and_head, with_middle


@entry("branch on the data", piecewise_linear=None)
def data_dependent_branch() -> nn.Module:
    def forward(self, x):
        h = self.stem(x)
        h = F.relu(h) if h.mean().item() > 0.02 else F.leaky_relu(h, 0.2)
        if h.abs().max() > 1e3:
            h = h / 2
        return self.head(h)

    return Call(forward, **stem_and_head())


@entry("factors that carry no gradient", piecewise_linear=None)
def detached_factor() -> nn.Module:
    def forward(self, x):
        h = self.stem(x)
        return self.head(h * (h > 0) + h / h.detach().norm(dim=1, keepdim=True) + 0.1 * h.data)

    return Call(forward, **stem_and_head())


@entry("aten operations by name", piecewise_linear=None)
def aten_operations() -> nn.Module:
    def forward(self, x):
        h = torch.ops.aten.leaky_relu(self.stem(x), 0.2)
        return self.head(torch._C._nn.leaky_relu(h, 0.5))

    return Call(forward, **stem_and_head())


@entry("non-reentrant checkpoint", piecewise_linear=None)
def checkpointed() -> nn.Module:
    def forward(self, x):
        return self.head(checkpoint(lambda x: F.relu(self.stem(x)), x, use_reentrant=False))

    return Call(forward, **stem_and_head())


@entry("in-place on a view", piecewise_linear=None)
def in_place_on_a_view() -> nn.Module:
    def forward(self, x):
        h = self.stem(x)
        h[:, :2].mul_(0.5)
        h[:, 3:4, 1:] += 0.3
        h.view(len(x), -1).clamp_(min=0)
        return self.head(h)

    return Call(forward, **stem_and_head())


@entry("conversion of dtype", piecewise_linear=None)
def dtype_conversion() -> nn.Module:
    def forward(self, x):
        h = F.relu(self.stem(x)).double()
        return self.head(h.to(x.dtype))

    return Call(forward, **stem_and_head())


def thresholds() -> nn.Module:
    return Parameters(low=torch.full((6, 1, 1), 0.1), high=torch.full((6, 1, 1), 0.3))


def learned_thresholds(self: nn.Module, h: Tensor) -> Tensor:
    h = torch.maximum(h, self.p.low) - torch.clamp(h, max=self.p.high)
    return h + torch.where(h > self.p.low, h, self.p.high)


def base_of_a_view(self: nn.Module, h: Tensor) -> Tensor:
    h = self.conv(h)
    first, flat = h[:, :3], h.view(len(h), -1)
    h.clamp_(min=0)
    return torch.cat([first, flat.view_as(h)[:, 3:]], 1)


def changed_without_autograd(self: nn.Module, h: Tensor) -> Tensor:
    h = self.conv(h)
    h.data.clamp_(-0.5, 0.5)
    with torch.no_grad():
        h.mul_(0.5)
    return h


def heads_by_class(self: nn.Module, h: Tensor) -> Tensor:
    out, odd = torch.zeros_like(h), torch.arange(len(h)) % 2 == 1
    out[odd] = self.odd(h[odd])
    out[~odd] = self.even(h[~odd])
    return out


def stacked_branches(self: nn.Module, h: Tensor) -> Tensor:
    a, b = F.relu(self.conv(torch.cat([h, -h], 0))).chunk(2, 0)
    return a + b


def warped(self: nn.Module, h: Tensor) -> Tensor:
    grid = F.affine_grid(self.p.theta.expand(len(h), 2, 3), list(h.shape), align_corners=False)
    return F.grid_sample(h, grid.to(h.dtype), align_corners=False)


def translated(self: nn.Module, h: Tensor) -> Tensor:
    """Each sample by a shift of its own, by indices into the batch."""
    n, _, height, width = h.shape
    batch, rows, columns = torch.meshgrid(torch.arange(n), torch.arange(height), torch.arange(width), indexing="ij")
    rows = torch.clamp(rows + torch.randint(-2, 3, (n, 1, 1)) + 1, 0, height + 1)
    padded = F.pad(h, [1, 1, 1, 1, 0, 0, 0, 0])
    return padded.permute(0, 2, 3, 1).contiguous()[batch, rows, columns + 1].permute(0, 3, 1, 2).contiguous()


def running_statistics(self: nn.Module, h: Tensor) -> Tensor:
    self.norm.running_mean.lerp_(h.detach().mean((0, 2, 3)), 0.1)
    return h - self.norm.running_mean.view(1, -1, 1, 1)


def rounded(self: nn.Module, h: Tensor) -> Tensor:
    """Rounded in value, unrounded in gradient."""
    return h + (torch.round(4 * h) / 4 - h).detach()


for _name, _middle, _modules in (
    ("learned thresholds", learned_thresholds, {"p": thresholds}),
    ("in-place on the base of views", base_of_a_view, {"conv": lambda: conv(6, 6)}),
    ("changed without autograd", changed_without_autograd, {"conv": lambda: conv(6, 6)}),
    ("heads by class", heads_by_class, {"odd": lambda: conv(6, 6), "even": lambda: conv(6, 6)}),
    ("branches stacked along the batch", stacked_branches, {"conv": lambda: conv(6, 6)}),
    ("translated by indices", translated, {}),
    ("running statistics", running_statistics, {"norm": lambda: nn.BatchNorm2d(6)}),
    ("rounding with a straight-through gradient", rounded, {}),
    ("detached batch mean", lambda self, h: h - h.detach().mean(0), {}),
    (
        "embedding of an argmax",
        lambda self, h: h + self.e(h.argmax(1)).movedim(-1, 1),
        {"e": lambda: nn.Embedding(6, 6)},
    ),
    ("largest values", lambda self, h: h.flatten(2).topk(16).values.sort(-1)[0].repeat(1, 1, 4).view_as(h), {}),
    ("gather", lambda self, h: h.gather(1, h.argsort(1)), {}),
    ("frequencies", lambda self, h: h + torch.fft.irfft2(torch.fft.rfft2(h) * torch.tensor(0.5 + 1j)), {}),
    ("per-sample map", lambda self, h: torch.vmap(lambda x: F.relu(x[None] * 2)[0])(h), {}),
    ("scripted layer", lambda self, h: self.script(h), {"script": lambda: torch.jit.script(nn.Sequential(conv(6, 6)))}),
    ("mean of a pyramid by cumsum", lambda self, h: h.cumsum(2) - h.cumsum(-1), {}),
    ("clamp between activations", lambda self, h: h.clamp(min=h.flip(1) / 2, max=h.mean(1, keepdim=True) + 1), {}),
    ("amax over space", lambda self, h: h + h.amax((2, 3), keepdim=True) - h.amin(1, keepdim=True), {}),
    ("through numpy", lambda self, h: h + torch.from_numpy(h.detach().numpy() ** 2), {}),
):
    with_middle(_name, _middle, piecewise_linear=None, **_modules)


def warps_have_a_second_derivative() -> bool:
    """Not in every torch that is supported."""
    x, grid = torch.ones(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 2, 2, 2, requires_grad=True)
    (dx,) = torch.autograd.grad(F.grid_sample(x, grid, align_corners=False).sum(), x, create_graph=True)
    try:
        dx.sum().backward()
    except RuntimeError:
        return False
    return True


with_middle(
    "learned warp",
    warped,
    piecewise_linear=None,
    plain=warps_have_a_second_derivative(),
    p=lambda: Parameters(theta=torch.tensor([[0.9, 0.1, 0.05], [-0.1, 0.8, 0.0]])),
)
