"""Residual blocks of SNGAN's and BigGAN's generators and discriminators, resampling folded into their convolutions.

Values are those of the published definitions to rounding. Names of parameters are those of the BigGAN codebase; a
state_dict with the names of the SNGAN codebases (c1, c2, c_sc, b1, b2) loads too.

The sum with the shortcut is torch's, into memory of its own: added into the convolution's output in place it made no
difference that could be measured, and would change what a hook on that convolution has kept.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fastgan.functional import bias_act
from fastgan.nn.norm_act import BatchNormAct2d
from fastgan.nn.resampled_conv import ConvDownsample2d, UpsampleConv2d

_NAMES = {"c1": "conv1", "c2": "conv2", "c_sc": "conv_sc", "b1": "bn1", "b2": "bn2"}


class _Block(nn.Module):
    """What the blocks share: the names that they load."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name, dot, rest = key[len(prefix) :].partition(".")
            if name in _NAMES:
                state_dict[f"{prefix}{_NAMES[name]}{dot}{rest}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


class GBlock(_Block):
    """Generator's block: norm, act, up-convolution, norm, act, convolution; plus the shortcut.

        h = conv1(up(act(bn1(x)))),  y = conv2(act(bn2(h))) + conv_sc(up(x))

    `up` is nearest-neighbour upsampling by 2, done by the convolution that follows it; in the shortcut, where the two
    commute, the 1x1 convolution comes first.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        hidden_channels: of h; None for C_out.
        upsample: double the resolution.
        norm: (channels, act=name) -> a module that computes act(norm(x)), or from (x, y) where `forward` gets a
            condition, such as `partial(ConditionalBatchNormAct2d, condition=...)`.
        act: name of the activation, as in `fastgan.functional.bias_act`, without its gain.

    Shapes: x [N, C_in, H, W] -> [N, C_out, 2H, 2W], or [N, C_out, H, W] without `upsample`.

    Keys: bn1, conv1, bn2, conv2 and, where channels or resolution change, conv_sc.

    Source: T. Miyato et al., Spectral Normalization for GANs, ICLR 2018, appendix B, figure 7; A. Brock et al., Large
    Scale GAN Training, ICLR 2019, appendix B, figure 15.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int | None = None,
        *,
        upsample: bool = True,
        norm: Callable[..., nn.Module] = BatchNormAct2d,
        act: str = "relu",
    ):
        super().__init__()
        hidden = out_channels if hidden_channels is None else hidden_channels
        Conv2d = UpsampleConv2d if upsample else nn.Conv2d
        self.bn1 = norm(in_channels, act=act)
        self.conv1 = Conv2d(in_channels, hidden, 3, padding=1)
        self.bn2 = norm(hidden, act=act)
        self.conv2 = nn.Conv2d(hidden, out_channels, 3, padding=1)
        self.conv_sc = Conv2d(in_channels, out_channels, 1) if upsample or in_channels != out_channels else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the block; y is the condition of both norms, in the form that they take."""
        condition = () if y is None else (y,)
        h = self.conv1(self.bn1(x, *condition))
        h = self.conv2(self.bn2(h, *condition))
        return h + (x if self.conv_sc is None else self.conv_sc(x))


class DBlock(_Block):
    """Discriminator's block: act, convolution, act, convolution and pooling; plus the shortcut.

        h = act(conv1(act(x))),  y = pool(conv2(h)) + pool(conv_sc(x))

    `pool` is average pooling by 2, done by the convolution before it; in the shortcut, where the two commute, it comes
    before the 1x1 convolution.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        hidden_channels: of h; None for C_in, as in SNGAN. BigGAN's `D_wide` has C_out.
        downsample: halve the resolution.
        preactivation: False leaves out the first act, for a block whose input is an image.
        act: name of the activation, as in `fastgan.functional.bias_act`, without its gain.

    Shapes: x [N, C_in, H, W] -> [N, C_out, H // 2, W // 2], or [N, C_out, H, W] without `downsample`.

    Keys: conv1, conv2 and, where channels or resolution change, conv_sc.

    Source: as `GBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int | None = None,
        *,
        downsample: bool = False,
        preactivation: bool = True,
        act: str = "relu",
    ):
        super().__init__()
        hidden = in_channels if hidden_channels is None else hidden_channels
        Conv2d = ConvDownsample2d if downsample else nn.Conv2d
        self.act, self.preactivation = act, preactivation
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.conv2 = Conv2d(hidden, out_channels, 3, padding=1)
        self.conv_sc = Conv2d(in_channels, out_channels, 1) if downsample or in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        h = self.conv1(bias_act(x, act=self.act, gain=1) if self.preactivation else x)
        h = self.conv2(bias_act(h, act=self.act, gain=1))
        return h + (x if self.conv_sc is None else self.conv_sc(x))

    def extra_repr(self) -> str:
        """What the submodules do not show."""
        return f"act={self.act!r}, preactivation={self.preactivation}"


class DBlockOptimized(DBlock):
    """Discriminator's first block: convolution, act, convolution and pooling; plus the shortcut.

        h = act(conv1(x)),  y = pool(conv2(h)) + conv_sc(pool(x))

    Args:
        in_channels: of the image.
        out_channels: C_out, and of h.
        act: as in `DBlock`.

    Shapes, keys, source: as `DBlock` with `downsample`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, act: str = "relu"):
        super().__init__(in_channels, out_channels, out_channels, downsample=True, preactivation=False, act=act)
