"""What curves or couples samples, also where a shape, a position or a zero hides it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from critics.zoo import Call, Parameters, ZeroGain, conv, entry, stem_and_head, with_middle


def minibatch_stddev(self: nn.Module, h: Tensor) -> Tensor:
    """One more feature per group of samples, here in the place of the last channel."""
    groups = h.reshape(2, -1, *h.shape[1:])
    std = ((groups - groups.mean(0)).square().mean(0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([h[:, 1:], std.repeat(2).view(-1, 1, 1, 1).expand(-1, 1, *h.shape[2:])], 1)


def attention(self: nn.Module, h: Tensor) -> Tensor:
    q, k, v = self.qkv(h).flatten(2).chunk(3, 1)
    weights = torch.softmax(q.transpose(1, 2) @ k, -1)
    return h + (v @ weights.transpose(1, 2)).view_as(h)


def folded(self: nn.Module, h: Tensor) -> Tensor:
    return self.pairs(h.reshape(h.shape[0] // 2, 12, 8, 8)).reshape(h.shape)


class Halve(torch.autograd.Function):
    """A Python function of autograd's, which may do anything: this one halves."""

    @staticmethod
    def forward(ctx, x):
        return x / 2

    @staticmethod
    def backward(ctx, grad):
        return grad / 2


with_middle("training batch norm", lambda self, h: self.norm(h), norm=lambda: nn.BatchNorm2d(6))
with_middle("minibatch stddev", minibatch_stddev)
with_middle("silu", lambda self, h: F.silu(self.conv(h)), conv=lambda: conv(6, 6))
with_middle("softplus", lambda self, h: F.softplus(self.conv(h)), conv=lambda: conv(6, 6))
with_middle("attention", attention, qkv=lambda: conv(6, 18, 1))
with_middle("instance norm", lambda self, h: self.norm(h), norm=lambda: nn.InstanceNorm2d(6, affine=True))
with_middle("group norm", lambda self, h: self.norm(h), norm=lambda: nn.GroupNorm(2, 6))
with_middle("batch mean after a zero gain", lambda self, h: h + self.zero.gain * h.mean(0), zero=ZeroGain)
with_middle("roll over the batch after a zero gain", lambda self, h: h + self.zero.gain * h.roll(1, 0), zero=ZeroGain)
with_middle("flip over the batch after a zero gain", lambda self, h: h + self.zero.gain * h.flip(0), zero=ZeroGain)
with_middle("square after a zero gain", lambda self, h: h + self.zero.gain * h * h, zero=ZeroGain)
with_middle("sample 0 added to all after a zero gain", lambda self, h: h + self.zero.gain * h[:1], zero=ZeroGain)
with_middle("batch folded into channels", folded, pairs=lambda: conv(12, 12))
with_middle("pixel norm", lambda self, h: h * (h.square().mean(1, keepdim=True) + 1e-8).rsqrt())
with_middle("autograd function", lambda self, h: Halve.apply(h))
with_middle("product of two branches", lambda self, h: h * self.conv(h), conv=lambda: conv(6, 6))


@entry("transposed batch where N = C", shape=(4, 16), piecewise_linear=False)
def transposed_batch() -> nn.Module:
    def forward(self, x):
        h = F.relu(self.l1(x.mean(2)))
        return self.l3(h) + self.l3(self.l2(h.t()).t())

    return Call(forward, l1=nn.Linear(4, 4), l2=nn.Linear(4, 4), l3=nn.Linear(4, 1))


@entry("reentrant checkpoint", piecewise_linear=False, plain=False)
def reentrant_checkpoint() -> nn.Module:
    def forward(self, x):
        return self.head(checkpoint(lambda h: F.relu(self.middle(h)), self.stem(x), use_reentrant=True))

    return Call(forward, **stem_and_head(middle=conv(6, 6)))


def einsum_over_the_batch(self: nn.Module, h: Tensor) -> Tensor:
    return torch.einsum("nchw,mn->mchw", h, self.p.eye)


def as_unbatched_conv3d(self: nn.Module, h: Tensor) -> Tensor:
    """conv3d takes [N, C, H, W] for one sample with N channels."""
    return h + F.conv3d(h, self.p.eye.view(4, 4, 1, 1, 1))


def as_unbatched_conv2d(self: nn.Module, h: Tensor) -> Tensor:
    return h + F.conv2d(h.flatten(2), self.p.eye.view(4, 4, 1, 1)).view_as(h)


def mean_where_n_is_c(self: nn.Module, h: Tensor) -> Tensor:
    """[N, C, H, W].mean(0) has N rows if C = N."""
    four = self.four(h)
    return h + self.back(four + self.zero.gain * four.mean(0).unsqueeze(1))


def first_sample_where_n_is_c(self: nn.Module, h: Tensor) -> Tensor:
    four = self.four(h)
    return h + self.back(four + self.zero.gain * four[0].unsqueeze(1))


def stack_where_n_is_c(self: nn.Module, h: Tensor) -> Tensor:
    four = self.four(h)
    return h + self.back(four + self.zero.gain * torch.stack(four.unbind(1), 0))


def dead_units(self: nn.Module, h: Tensor) -> Tensor:
    """No unit is active today: nothing passes from sample to sample, not even NaN."""
    return h + F.relu(self.conv(h) + self.p.bias).roll(1, 0)


def dead_maximum(self: nn.Module, h: Tensor) -> Tensor:
    """The coupled branch never wins today."""
    return torch.maximum(h, (self.conv(h) + self.p.bias).flatten(1).view_as(h).flip(0))


def odd_samples(self: nn.Module, h: Tensor) -> Tensor:
    """Sample 0 is left out; sample 1 goes into sample 3."""
    return h + self.zero.gain * h[[0, 1, 2, 1]]


class ZeroBuffer(nn.Module):
    """A gain that a schedule moves away from zero."""

    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.zeros(()))


def dead_bias() -> nn.Module:
    return Parameters(bias=torch.full((6, 1, 1), -100.0))


def eye() -> nn.Module:
    return Parameters(eye=torch.eye(4))


FOUR = {"four": lambda: conv(6, 4), "back": lambda: conv(4, 6), "zero": ZeroGain}
for _name, _middle, _modules in (
    ("roll after dead units", dead_units, {"conv": lambda: conv(6, 6), "p": dead_bias}),
    ("flip that never wins a maximum", dead_maximum, {"conv": lambda: conv(6, 6), "p": dead_bias}),
    ("sample 1 in sample 3", odd_samples, {"zero": ZeroGain}),
    ("sample 1 in sample 3 after a buffer of zero", odd_samples, {"zero": ZeroBuffer}),
    ("einsum over the batch", einsum_over_the_batch, {"p": eye}),
    ("matrix from the left", lambda self, h: (self.p.eye @ h.flatten(1)).view_as(h), {"p": eye}),
    ("tensordot over the batch", lambda self, h: torch.tensordot(self.p.eye, h, dims=1), {"p": eye}),
    ("unbatched conv3d", as_unbatched_conv3d, {"p": lambda: Parameters(eye=torch.zeros(4, 4))}),
    ("unbatched conv2d", as_unbatched_conv2d, {"p": lambda: Parameters(eye=torch.zeros(4, 4))}),
    ("mean over the batch where N = C", mean_where_n_is_c, FOUR),
    ("first sample where N = C", first_sample_where_n_is_c, FOUR),
    ("stack where N = C", stack_where_n_is_c, FOUR),
    (
        "pad over the batch",
        lambda self, h: h + self.zero.gain * F.pad(h, (0, 0, 0, 0, 0, 0, 1, -1)),
        {"zero": ZeroGain},
    ),
    ("roll without dims", lambda self, h: h + self.zero.gain * h.roll(1), {"zero": ZeroGain}),
    ("cumsum over the batch", lambda self, h: h + self.zero.gain * h.cumsum(0), {"zero": ZeroGain}),
    ("whole mean", lambda self, h: h + self.zero.gain * h.mean(), {"zero": ZeroGain}),
    ("shuffled batch", lambda self, h: h + self.zero.gain * h[torch.tensor([1, 0, 3, 2])], {"zero": ZeroGain}),
    ("largest of the batch", lambda self, h: h + self.zero.gain * h.max(0)[0], {"zero": ZeroGain}),
    ("maximum with the next sample", lambda self, h: torch.maximum(h, h.roll(1, 0) - 100), {}),
    ("divided by an activation", lambda self, h: 1 / (1 + h), {}),
    ("power of a constant", lambda self, h: 0.5**h, {}),
    ("integer power", lambda self, h: h + self.zero.gain * h**2, {"zero": ZeroGain}),
    ("addcmul", lambda self, h: torch.addcmul(h, h, self.conv(h), value=0.1), {"conv": lambda: conv(6, 6)}),
    ("lerp by an activation", lambda self, h: torch.lerp(h, -h, h / 10), {}),
    ("gram matrix", lambda self, h: h + torch.einsum("nchw,ndhw->ncd", h, h).mean(2)[:, :, None, None] / 64, {}),
    (
        "prelu with a slope from activations",
        lambda self, h: F.prelu(self.conv(h), h.mean((0, 2, 3))),
        {"conv": lambda: conv(6, 6)},
    ),
    ("std over space", lambda self, h: h + h.std((2, 3), keepdim=True), {}),
    ("layer norm", lambda self, h: F.layer_norm(h, h.shape[1:]), {}),
    ("gelu", lambda self, h: F.gelu(h - 0.1), {}),
    ("batch norm without statistics", lambda self, h: F.batch_norm(h, None, None, training=True), {}),
):
    with_middle(_name, _middle, **_modules)
