"""BigGAN-PyTorch's `layers`: the mixin SN and the residual blocks GBlock and DBlock.

Classes, constructors and keys stay theirs; what is replaced is the method that computes, by one which is made from it
and falls back on it. Other codebases have a module `layers` too: so a class must have the constructor of
BigGAN-PyTorch's, and a small instance must give the same values with both methods.
"""

import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial, wraps
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan import functional
from fastgan.compat.comparison import MismatchError, guarded
from fastgan.compat.patching import Family, MadeFrom
from fastgan.spectral.mixins import BIGGAN, MixinLayer

Method = Callable[..., Tensor]


def normalized_weight(cls: type, theirs: Method) -> Method:
    """`SN.W_` by fastgan's op; what the op does not take, by theirs."""

    @wraps(theirs)
    def W_(self: Any) -> Tensor:
        weight = MixinLayer("", self, BIGGAN).compute()
        return theirs(self) if weight is None else weight

    def small() -> nn.Module:
        def prepare(self: nn.Module) -> None:
            nn.Linear.__init__(self, 4, 3)
            cls.__init__(self, num_svs=1, num_itrs=2, num_outputs=3)

        return type("Small", (nn.Linear, cls), {"__init__": prepare})()

    _check(cls, ["num_svs", "num_itrs", "num_outputs", "transpose", "eps"], small, [], theirs, W_)
    return W_


def generator_block(cls: type, theirs: Method) -> Method:
    """`GBlock.forward`, nearest-neighbour upsampling by 2 done by the convolution that follows it."""
    forwards = _forwards(cls)

    @wraps(theirs)
    def forward(self: Any, x: Tensor, y: Tensor) -> Tensor:
        if not (self.learnable_sc and _doubles(self.upsample) and _is_plain(self.conv1, forwards)):
            return theirs(self, x, y)
        h = self.activation(self.bn1(x, y))
        h = functional.upsample_conv2d(h, *_weights(self.conv1), **_geometry(self.conv1))
        h = self.conv2(self.activation(self.bn2(h, y)))
        if _is_pointwise(self.conv_sc, forwards):
            return h + self.upsample(self.conv_sc(x))  # the two commute
        return h + self.conv_sc(self.upsample(x))

    def small() -> nn.Module:
        up = partial(F.interpolate, scale_factor=2)
        return cls(2, 3, which_conv=_small_conv(cls), which_bn=_Shift, activation=nn.ReLU(), upsample=up)

    x = torch.linspace(-1, 2, 2 * 2 * 9, dtype=torch.float64).view(2, 2, 3, 3)
    arguments = ["in_channels", "out_channels", "which_conv", "which_bn", "activation", "upsample"]
    _check(cls, arguments, small, [x, x.mean((1, 2, 3), keepdim=True)], theirs, forward)
    return forward


def discriminator_block(cls: type, theirs: Method) -> Method:
    """`DBlock.forward`, average pooling by 2 done by the convolution before it."""
    forwards, shortcut = _forwards(cls), getattr(cls, "shortcut", None)

    @wraps(theirs)
    def forward(self: Any, x: Tensor) -> Tensor:
        if not (_halves(self.downsample) and _is_plain(self.conv2, forwards)):
            return theirs(self, x)
        h = self.activation(self.conv1(F.relu(x) if self.preactivation else x))
        h = functional.conv_downsample2d(h, *_weights(self.conv2), **_geometry(self.conv2))
        if self.learnable_sc and _is_pointwise(self.conv_sc, forwards) and type(self).shortcut is shortcut:
            return h + self.conv_sc(self.downsample(x))  # the two commute
        return h + self.shortcut(x)

    def small() -> nn.Module:
        options = {"wide": False, "preactivation": True, "activation": nn.ReLU(), "downsample": nn.AvgPool2d(2)}
        return cls(2, 3, which_conv=_small_conv(cls), **options)

    x = torch.linspace(-1, 2, 2 * 2 * 20, dtype=torch.float64).view(2, 2, 4, 5)
    arguments = ["in_channels", "out_channels", "which_conv", "wide", "preactivation", "activation", "downsample"]
    _check(cls, arguments, small, [x], theirs, forward)
    return forward


# --- what can be fused ---


def _doubles(upsample: Any) -> bool:
    """Whether it is nearest-neighbour upsampling by 2."""
    if type(upsample) is nn.Upsample and not _has_hooks(upsample):
        options = {"size": upsample.size, "scale_factor": upsample.scale_factor, "mode": upsample.mode}
    elif isinstance(upsample, partial) and upsample.func is F.interpolate and not upsample.args:
        options = upsample.keywords
    else:
        return False
    known = {"size": (None,), "scale_factor": (2, (2, 2), [2, 2]), "mode": ("nearest",)}
    return "scale_factor" in options and all(value in known.get(name, ()) for name, value in options.items())


def _halves(downsample: Any) -> bool:
    """Whether it is average pooling by 2."""
    if type(downsample) is not nn.AvgPool2d or _has_hooks(downsample):
        return False
    is_two = all(size in (2, (2, 2)) for size in (downsample.kernel_size, downsample.stride))
    return is_two and downsample.padding in (0, (0, 0)) and not downsample.ceil_mode and not downsample.divisor_override


def _is_plain(conv: Any, forwards: Sequence[Method]) -> bool:
    """Whether it is nn.Conv2d or SNConv2d with stride 1 and nothing around."""
    if not isinstance(conv, nn.Conv2d) or type(conv).forward not in forwards or _has_hooks(conv):
        return False
    return conv.stride == (1, 1) and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)


def _is_pointwise(conv: Any, forwards: Sequence[Method]) -> bool:
    """Whether it is such a convolution, of single pixels."""
    return _is_plain(conv, forwards) and conv.kernel_size == (1, 1) and conv.padding == (0, 0)


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, kind) for kind in kinds) or "forward" in vars(module)


def _forwards(cls: type) -> list[Method]:
    """Those that do nothing but convolve by a weight, SNConv2d's among them."""
    return [conv.forward for conv in (nn.Conv2d, _normalized_conv(cls)) if conv is not None]


def _normalized_conv(cls: type) -> type | None:
    return getattr(sys.modules[cls.__module__], "SNConv2d", None)


def _weights(conv: Any) -> tuple[Tensor, Tensor | None]:
    return conv.W_() if hasattr(conv, "W_") else conv.weight, conv.bias


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    return {"padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups}


# --- whether a class is BigGAN-PyTorch's ---


class _Shift(nn.Module):
    """In the place of a conditional norm."""

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 1.5 * x + y


def _small_conv(cls: type) -> Callable[..., nn.Module]:
    return partial(_normalized_conv(cls) or nn.Conv2d, kernel_size=3, padding=1)


def _check(
    cls: type, arguments: Sequence[str], small: Callable[[], nn.Module], inputs: Sequence[Any], *methods: Method
) -> None:
    """Raise `MismatchError` unless the class has this constructor and both methods compute the same for a small one."""
    if list(signature(cls).parameters) != arguments:
        raise MismatchError(f"its constructor is not that of BigGAN-PyTorch's {cls.__name__}")
    with guarded():
        try:
            one = small().double()
            theirs, ours = (_values(method, deepcopy(one), inputs) for method in methods)
        except Exception as error:  # whatever another codebase's class does with these arguments
            raise MismatchError(f"it does not run as BigGAN-PyTorch's {cls.__name__} does: {error!r}") from error
    if not all(torch.allclose(a, b, 1e-9, 1e-12) for a, b in zip(theirs, ours, strict=True)):
        raise MismatchError(f"it computes something else than BigGAN-PyTorch's {cls.__name__}")


def _values(method: Method, module: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
    """Results, gradients and buffers in training mode and in eval mode."""
    seen = []
    for training in (True, False):
        y = method(module.train(training), *inputs)
        wanted = [p for p in module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(y.square().sum(), wanted, allow_unused=True, materialize_grads=True)
        seen += [y, *gradients, *(b.clone() for b in module.buffers())]
    return seen


_METHODS = {
    "SN.W_": MadeFrom(normalized_weight),
    "GBlock.forward": MadeFrom(generator_block),
    "DBlock.forward": MadeFrom(discriminator_block),
}
FAMILY = Family(
    summary="layers: SN, GBlock, DBlock",
    functions=dict.fromkeys(("layers", "BigGAN_PyTorch.layers"), _METHODS),
    left={
        "BigGANdeep.GBlock": "a block of another kind; its layers are replaced",
        "BigGANdeep.DBlock": "a block of another kind; its layers are replaced",
    },
)
