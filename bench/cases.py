"""The weights that benchmarks run on: every spectrally normalised layer of published critics.

The lists are derived, not copied: a critic is written down as its residual blocks (channels from the paper's table,
hidden width and shortcuts from the authors' description), and `_block` expands a block into its convolutions.
A shortcut convolution exists where a block changes the channels or the resolution.
"""

from math import prod
from typing import NamedTuple


class Layer(NamedTuple):
    """One weight: the kind of module that holds it (`conv2d`, `linear`, `embedding`) and its shape."""

    kind: str
    shape: tuple[int, ...]

    @property
    def matrix(self) -> tuple[int, int]:
        """[m, n]: the shape that spectral norm sees."""
        return self.shape[0], prod(self.shape[1:])


class Case(NamedTuple):
    """A network's spectrally normalised layers in the order of its forward, and where the list comes from."""

    name: str
    layers: tuple[Layer, ...]
    source: str

    @property
    def weights(self) -> int:
        """How many weights the layers have together."""
        return sum(prod(layer.shape) for layer in self.layers)


def _conv(c_in: int, c_out: int, kernel: int) -> Layer:
    return Layer("conv2d", (c_out, c_in, kernel, kernel))


def _block(c_in: int, hidden: int, c_out: int, *, shortcut: bool = True) -> tuple[Layer, ...]:
    convs = (_conv(c_in, hidden, 3), _conv(hidden, c_out, 3))
    return (*convs, _conv(c_in, c_out, 1)) if shortcut else convs


def _attention(c: int) -> tuple[Layer, ...]:
    """Self-attention's four 1x1 convolutions: query, key (c/8), value (c/2), output."""
    return _conv(c, c // 8, 1), _conv(c, c // 8, 1), _conv(c, c // 2, 1), _conv(c // 2, c, 1)


SNGAN_CIFAR = Case(
    "sngan-cifar",
    (
        *_block(3, 128, 128),
        *_block(128, 128, 128),
        *_block(128, 128, 128, shortcut=False),
        *_block(128, 128, 128, shortcut=False),
        Layer("linear", (1, 128)),
    ),
    "Miyato et al. 2018, appendix B: ResNet critic for 32x32, 128 channels, unconditional",
)

SNGAN_128 = Case(
    "sngan-128",
    (
        *_block(3, 64, 64),
        *_block(64, 64, 128),
        *_block(128, 128, 256),
        *_block(256, 256, 512),
        *_block(512, 512, 1024),
        *_block(1024, 1024, 1024, shortcut=False),
        Layer("linear", (1, 1024)),
    ),
    "Miyato et al. 2018, appendix B: ResNet critic for 128x128, unconditional, hidden widths are a block's input's",
)

BIGGAN_128 = Case(
    "biggan-128",
    (
        *_block(3, 96, 96),
        *_attention(96),
        *_block(96, 192, 192),
        *_block(192, 384, 384),
        *_block(384, 768, 768),
        *_block(768, 1536, 1536),
        *_block(1536, 1536, 1536, shortcut=False),
        Layer("linear", (1, 1536)),
        Layer("embedding", (1000, 1536)),
    ),
    "Brock et al. 2019, table 4: critic for 128x128, ch = 96, attention at 64x64, hidden widths are a block's output's",
)

CRITICS = (SNGAN_CIFAR, SNGAN_128, BIGGAN_128)
