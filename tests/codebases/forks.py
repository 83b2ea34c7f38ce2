"""Codebases in small, written here in plain torch in the manner of the families, as files of a checkout."""

# Zeros between the pixels, padding, a filter, every down-th pixel: `resampled(x, f, (up), (down), [x0, x1, y0, y1])`.
_RESAMPLED = """
import torch
import torch.nn.functional as F

def resampled(x, f, up, down, padding):
    n, c, h, w = x.shape
    (up_x, up_y), (down_x, down_y) = up, down
    spread = x.new_zeros(n * c, 1, h, up_y, w, up_x)
    spread[:, :, :, 0, :, 0] = x.reshape(n * c, 1, h, w)
    around = [max(p, 0) for p in padding]
    y = F.pad(spread.view(n * c, 1, h * up_y, w * up_x), around)
    x0, x1, y0, y1 = [max(-p, 0) for p in padding]
    y = y[:, :, y0 : y.shape[2] - y1, x0 : y.shape[3] - x1]
    y = F.conv2d(y, f.to(x.dtype).flip(0, 1)[None, None])[:, :, ::down_y, ::down_x]
    return y.view(n, c, *y.shape[2:])
"""

# --- torch_utils ---

_BIAS_ACT = """
import torch
import torch.nn.functional as F

class Facts:
    def __init__(self, func, def_alpha=0, def_gain=1):
        self.func, self.def_alpha, self.def_gain = func, def_alpha, def_gain

activation_funcs = {
    "linear": Facts(lambda x, alpha: x),
    "relu": Facts(lambda x, alpha: F.relu(x), 0, 2**0.5),
    "lrelu": Facts(lambda x, alpha: F.leaky_relu(x, alpha), 0.2, 2**0.5),
    "tanh": Facts(lambda x, alpha: torch.tanh(x)),
    "swish": Facts(lambda x, alpha: torch.sigmoid(x) * x, 0, 2**0.5),
}

def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
    if b is not None:
        x = x + b.view([-1 if i == dim else 1 for i in range(x.ndim)])
    facts = activation_funcs[act]
    x = facts.func(x, facts.def_alpha if alpha is None else alpha) * (facts.def_gain if gain is None else gain)
    return x if clamp is None else x.clamp(-clamp, clamp)
"""
_UPFIRDN2D = (
    _RESAMPLED
    + """
def two(n):
    return (n, n) if isinstance(n, int) else tuple(n)

def four(padding):
    padding = list(two(padding))
    return [padding[0], padding[0], padding[1], padding[1]] if len(padding) == 2 else padding

def setup_filter(f, device=torch.device("cpu"), normalize=True, flip_filter=False, gain=1, separable=None):
    f = torch.as_tensor(f, dtype=torch.float32)
    f = f[None] if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    f = f.ger(f) if f.ndim == 1 and not separable else f
    f = f / f.sum() if normalize else f
    f = f.flip(list(range(f.ndim))) if flip_filter else f
    return (f * gain ** (f.ndim / 2)).to(device)

def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
    f = x.new_ones(1, 1) if f is None else f.to(x.dtype)
    f = torch.outer(f, f) if f.ndim == 1 else f
    return resampled(x, (f.flip(0, 1) if flip_filter else f) * gain, two(up), two(down), four(padding))

def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda"):
    fh, fw = f.shape[0], f.shape[-1]
    x0, x1, y0, y1 = four(padding)
    around = [x0 + fw // 2, x1 + (fw - 1) // 2, y0 + fh // 2, y1 + (fh - 1) // 2]
    return upfirdn2d(x, f, 1, 1, around, flip_filter, gain)

def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    (ux, uy), fh, fw = two(up), f.shape[0], f.shape[-1]
    x0, x1, y0, y1 = four(padding)
    around = [x0 + (fw + ux - 1) // 2, x1 + (fw - ux) // 2, y0 + (fh + uy - 1) // 2, y1 + (fh - uy) // 2]
    return upfirdn2d(x, f, up, 1, around, flip_filter, gain * ux * uy)

def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    (dx, dy), fh, fw = two(down), f.shape[0], f.shape[-1]
    x0, x1, y0, y1 = four(padding)
    around = [x0 + (fw - dx + 1) // 2, x1 + (fw - dx) // 2, y0 + (fh - dy + 1) // 2, y1 + (fh - dy) // 2]
    return upfirdn2d(x, f, 1, down, around, flip_filter, gain)
"""
)
_GRADFIX = """
import contextlib
import torch
import torch.nn.functional as F

@contextlib.contextmanager
def no_weight_gradients():
    yield

def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)

def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
"""
_GRID_SAMPLE = """
import torch
def grid_sample(input, grid):
    return torch.nn.functional.grid_sample(input, grid, align_corners=False)
"""
# As with a decorator that hides the arguments.
_NETWORKS = """
import torch
from fastgan.compat.families.stylegan import conv2d_resample
from torch_utils.ops import bias_act
from torch_utils.ops.upfirdn2d import upsample2d

def profiled(function):
    def decorator(*args, **kwargs):
        return function(*args, **kwargs)
    decorator.__name__ = function.__name__
    return decorator

@profiled
def modulated_conv2d(x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True,
                     flip_weight=True, fused_modconv=True):
    weights = weight * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    y = torch.cat([
        conv2d_resample(x[i : i + 1], w, resample_filter, up, down, padding, flip_weight=flip_weight)
        for i, w in enumerate(weights)
    ])
    return y if noise is None else y + noise
"""
STYLEGAN = {
    "torch_utils/__init__.py": "",
    "torch_utils/ops/__init__.py": "",
    "torch_utils/ops/bias_act.py": _BIAS_ACT,
    "torch_utils/ops/upfirdn2d.py": _UPFIRDN2D,
    "torch_utils/ops/conv2d_gradfix.py": _GRADFIX,
    "torch_utils/ops/grid_sample_gradfix.py": _GRID_SAMPLE,
    "torch_utils/ops/fma.py": "def fma(a, b, c):\n    return a * b + c\n",
    "training/__init__.py": "",
    "training/networks.py": _NETWORKS,
}

# --- op ---

# `@` is where the bias goes in an input of three dimensions, `input` may become `input.cuda()`.
FUSED_ACT = """
import torch
from torch import nn
from torch.nn import functional as F

def fused_leaky_relu(input, bias=None, negative_slope=0.2, scale=2**0.5):
    if bias is None:
        return F.leaky_relu(input, negative_slope) * scale
    where = @ if input.ndim == 3 else (1, -1) + (1,) * (input.ndim - 2)
    return F.leaky_relu(input + bias.view(where), negative_slope) * scale

class FusedLeakyReLU(nn.Module):
    def __init__(self, channel, negative_slope=0.2, scale=2**0.5):
        super().__init__()
        self.bias, self.negative_slope, self.scale = nn.Parameter(torch.zeros(channel)), negative_slope, scale

    def forward(self, input):
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)
"""
SECOND, LAST = FUSED_ACT.replace("@", "(1, -1, 1)"), FUSED_ACT.replace("@", "(1, 1, -1)")
FIR = (
    _RESAMPLED
    + """
def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)):
    return resampled(input, kernel, (up, up), (down, down), [*pad, *pad] if len(pad) == 2 else list(pad))
"""
)
ROSINALITY = {
    "op/__init__.py": "from .fused_act import FusedLeakyReLU, fused_leaky_relu\nfrom .upfirdn2d import upfirdn2d\n",
    "op/fused_act.py": SECOND,
    "op/upfirdn2d.py": FIR,
    "op/conv2d_gradfix.py": _GRADFIX,
    "model.py": "from op import FusedLeakyReLU, conv2d_gradfix, fused_leaky_relu, upfirdn2d\n"
    "from op.upfirdn2d import upfirdn2d as other\n",
}

# The same by plugins, which are compiled when the package is imported, and have no branch for a CPU.
_PLUGINS = """
import os
import torch
from torch import nn
from torch.autograd import Function
from torch.utils.cpp_extension import load

{plugin} = load("{plugin}", sources=["{plugin}.cpp", "{plugin}.cu"])
"""
PLUGIN_ACT = (
    _PLUGINS.format(plugin="fused")
    + """
class Backward(Function):
    @staticmethod
    def forward(ctx, dy, y, slope, scale):
        ctx.save_for_backward(y)
        ctx.options = slope, scale
        dx = fused.fused_bias_act(dy, dy.new_empty(0), y, 3, 1, slope, scale)
        return dx, dx.sum([0, *range(2, dx.ndim)])

    @staticmethod
    def backward(ctx, ddx, ddb):
        (y,) = ctx.saved_tensors
        return fused.fused_bias_act(ddx, ddb, y, 3, 1, *ctx.options), None, None, None

class Forward(Function):
    @staticmethod
    def forward(ctx, x, bias, slope, scale):
        y = fused.fused_bias_act(x, bias, x.new_empty(0), 3, 0, slope, scale)
        ctx.save_for_backward(y)
        ctx.options = slope, scale
        return y

    @staticmethod
    def backward(ctx, dy):
        return *Backward.apply(dy, *ctx.saved_tensors, *ctx.options), None, None

def fused_leaky_relu(input, bias, negative_slope=0.2, scale=2**0.5):
    return Forward.apply(input, bias, negative_slope, scale)

class FusedLeakyReLU(nn.Module):
    def __init__(self, channel, negative_slope=0.2, scale=2**0.5):
        super().__init__()
        self.bias, self.negative_slope, self.scale = nn.Parameter(torch.zeros(channel)), negative_slope, scale

    def forward(self, input):
        return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)
"""
)

# --- basicsr ---

BASICSR = {
    "basicsr/__init__.py": "",
    "basicsr/ops/__init__.py": "",
    "basicsr/ops/fused_act/__init__.py": "from .fused_act import FusedLeakyReLU, fused_leaky_relu\n",
    "basicsr/ops/fused_act/fused_act.py": PLUGIN_ACT.replace(
        PLUGIN_ACT[PLUGIN_ACT.index("from torch.utils") : PLUGIN_ACT.index("class Backward")],
        "from . import fused_act_ext\n\n",
    ).replace("fused.fused", "fused_act_ext.fused"),
    "basicsr/ops/upfirdn2d/__init__.py": "from .upfirdn2d import upfirdn2d\n",
    "basicsr/ops/upfirdn2d/upfirdn2d.py": FIR,
    "basicsr/archs.py": "from basicsr.ops.fused_act import fused_leaky_relu as act\n",
}
# --- layers ---

BIGGAN = {
    "layers.py": """
import torch
import torch.nn.functional as F
from torch import nn


class SN:
    def __init__(self, num_svs, num_itrs, num_outputs, transpose=False, eps=1e-12):
        self.num_svs, self.num_itrs, self.transpose, self.eps = num_svs, num_itrs, transpose, eps
        for i in range(num_svs):
            self.register_buffer(f"u{i}", torch.randn(1, num_outputs))
            self.register_buffer(f"sv{i}", torch.ones(1))

    def W_(self):
        matrix = self.weight.flatten(1)
        for _ in range(self.num_itrs):
            with torch.no_grad():
                v = F.normalize(self.u0 @ matrix, eps=self.eps)
                u = F.normalize(v @ matrix.t(), eps=self.eps)
                if self.training:
                    self.u0.copy_(u)
        sigma = (u @ matrix @ v.t()).squeeze()
        if self.training:
            self.sv0.copy_(sigma.detach())
        return self.weight / sigma


class SNConv2d(nn.Conv2d, SN):
    def __init__(self, in_channels, out_channels, kernel_size, padding=0, num_svs=1, num_itrs=1, eps=1e-12):
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, padding=padding)
        SN.__init__(self, num_svs, num_itrs, out_channels, eps=eps)

    def forward(self, x):
        return F.conv2d(x, self.W_(), self.bias, self.stride, self.padding)


class GBlock(nn.Module):
    def __init__(self, in_channels, out_channels, which_conv=nn.Conv2d, which_bn=None, activation=None, upsample=None):
        super().__init__()
        self.activation, self.upsample = activation, upsample
        self.learnable_sc = in_channels != out_channels or upsample
        self.bn1, self.bn2 = which_bn(in_channels), which_bn(out_channels)
        self.conv1, self.conv2 = which_conv(in_channels, out_channels), which_conv(out_channels, out_channels)
        if self.learnable_sc:
            self.conv_sc = which_conv(in_channels, out_channels, kernel_size=1, padding=0)

    def forward(self, x, y):
        up = self.upsample or (lambda x: x)
        h = self.conv1(up(self.activation(self.bn1(x, y))))
        h = self.conv2(self.activation(self.bn2(h, y)))
        return h + (self.conv_sc(up(x)) if self.learnable_sc else x)


class DBlock(nn.Module):
    def __init__(
        self, in_channels, out_channels, which_conv=SNConv2d, wide=True, preactivation=False, activation=None,
        downsample=None,
    ):
        super().__init__()
        hidden = out_channels if wide else in_channels
        self.activation, self.downsample, self.preactivation = activation, downsample, preactivation
        self.learnable_sc = in_channels != out_channels or bool(downsample)
        self.conv1, self.conv2 = which_conv(in_channels, hidden), which_conv(hidden, out_channels)
        if self.learnable_sc:
            self.conv_sc = which_conv(in_channels, out_channels, kernel_size=1, padding=0)

    def shortcut(self, x):
        down = self.downsample or (lambda x: x)
        if not self.learnable_sc:
            return down(x)
        return down(self.conv_sc(x)) if self.preactivation else self.conv_sc(down(x))

    def forward(self, x):
        h = self.conv2(self.activation(self.conv1(F.relu(x) if self.preactivation else x)))
        return (self.downsample(h) if self.downsample else h) + self.shortcut(x)
""",
    "BigGAN.py": "import layers\n",
}
