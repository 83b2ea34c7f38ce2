"""One call of every public function and module, forward and backward: for tests of what must hold for all of them."""

from collections.abc import Callable
from functools import partial

import torch
from contract.call import drawn
from contract.compare import Case
from contract.table import TABLE

from fastgan import functional as F
from fastgan import nn

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
TAPS_2D = TAPS[:, None] * TAPS


def draw(*shape: int) -> torch.Tensor:
    """Random numbers that take a gradient."""
    return torch.randn(shape, requires_grad=True)


def unit(n: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n), dim=0)


def convolution(name: str, dims: int) -> list[torch.Tensor]:
    size = (6,) * dims
    return [getattr(F, name)(draw(2, 4, *size), draw(4, 4, *(3,) * dims), draw(4))]


FUNCTIONS: dict[str, Callable[[], list[torch.Tensor]]] = {
    f"{name}{dims}d": partial(convolution, f"{name}{dims}d", dims)
    for name in ("conv", "conv_transpose", "upsample_conv", "conv_downsample")
    for dims in (1, 2, 3)
}
FUNCTIONS |= {
    "bias_act": lambda: [
        F.bias_act(draw(2, 4, 5, 5), draw(4), act=act, clamp=1.0) for act in ("lrelu", "swish", "tanh", "gelu")
    ],
    "downsample2d": lambda: [F.downsample2d(draw(2, 4, 8, 8), TAPS)],
    "filter2d": lambda: [F.filter2d(draw(2, 4, 8, 8), TAPS)],
    "interpolate": lambda: [F.interpolate(draw(3, 4), draw(3, 4), torch.rand(3))],
    "norm_act": lambda: [
        F.norm_act(draw(2, 4, 5, 5), draw(4), draw(4), torch.zeros(4), torch.ones(4)),
        F.norm_act(draw(2, 4, 5, 5), norm="instance", act="lrelu"),
        F.norm_act(draw(2, 4, 5, 5), draw(4), draw(4), torch.zeros(4), torch.ones(4), training=False),
    ],
    "pixel_shuffle_act": lambda: [F.pixel_shuffle_act(draw(2, 8, 3, 3), draw(8), act="lrelu")],
    "random_interpolate": lambda: [F.random_interpolate(draw(3, 4), draw(3, 4))],
    "sample_norm": lambda: [F.sample_norm(draw(3, 4, 5)), F.sample_norm(draw(3, 4, 5), squared=True)],
    "scale_samples": lambda: [F.scale_samples(draw(3, 4), draw(3))],
    "scale_shift_act": lambda: [
        F.scale_shift_act(draw(2, 4, 5, 5), draw(2, 4), draw(4)),
        F.scale_shift_act(draw(2, 4, 5, 5), None, draw(4), act="lrelu"),
    ],
    "spectral_norm": lambda: (
        F.spectral_norm([draw(4, 6), draw(3, 2, 3, 3)], [unit(4), unit(3)], [unit(6), unit(18)]).weights
    ),
    "upfirdn1d": lambda: [F.upfirdn1d(draw(2, 4, 9), TAPS, up=2, padding=2)],
    "upfirdn2d": lambda: [
        F.upfirdn2d(draw(2, 4, 9, 9), f, up=2, down=3, padding=[2, 1, 2, 1], gain=4) for f in (TAPS, TAPS_2D, None)
    ],
    "upfirdn2d_bias_act": lambda: [F.upfirdn2d_bias_act(draw(2, 4, 9, 9), TAPS, draw(4), up=2, padding=2, act="lrelu")],
    "upsample2d": lambda: [F.upsample2d(draw(2, 4, 5, 5), TAPS)],
}


def of_contract(cases: list[Case]) -> list[torch.Tensor]:
    """The table's calls, of other values."""
    return [
        case.ours(**{name: laid.view(draw(*laid.base.shape)) for name, laid in case.inputs.items()}) for case in cases
    ]


FUNCTIONS |= {
    op: partial(of_contract, [drawn(op, call, row.image, torch.float32)[0] for call in row.calls])
    for op, row in TABLE.items()
    if hasattr(F, op) and op not in FUNCTIONS
}
# They are asked before a step, and take or return what is no tensor.
BEFORE_A_STEP = {"SpectralNormResult", "resampling_form", "setup_filter"}


def image_layer(make: Callable[..., torch.nn.Module], *args: object, dims: int = 2, **kwargs: object):
    """A module of four channels on a batch of images."""

    def layer() -> Callable[[], list[torch.Tensor]]:
        module = make(*args, **kwargs)
        return lambda: [module(draw(2, 4, *(6,) * dims))]

    return layer


def conditional() -> Callable[[], list[torch.Tensor]]:
    module = nn.ConditionalBatchNormAct2d(4, partial(torch.nn.Embedding, 3))
    classes = torch.tensor([0, 2])
    return lambda: [module(draw(2, 4, 6, 6), classes)]


# By name, what makes a module and returns what calls it.
MODULES: dict[str, Callable[[], Callable[[], list[torch.Tensor]]]] = {
    "BatchNormAct2d": image_layer(nn.BatchNormAct2d, 4),
    "BiasAct": image_layer(nn.BiasAct, 4),
    "ConditionalBatchNormAct2d": conditional,
    "DBlock": image_layer(nn.DBlock, 4, 6, downsample=True),
    "DBlockOptimized": image_layer(nn.DBlockOptimized, 4, 6),
    "Downsample2d": image_layer(nn.Downsample2d, TAPS),
    "Filter2d": image_layer(nn.Filter2d, TAPS),
    "GBlock": image_layer(nn.GBlock, 4, 6),
    "InstanceNormAct2d": image_layer(nn.InstanceNormAct2d, 4),
    "MinibatchStddev": image_layer(nn.MinibatchStddev, None),
    "PixelShuffleUpsample": image_layer(nn.PixelShuffleUpsample, 4, 6),
    "Upsample2d": image_layer(nn.Upsample2d, TAPS),
}
MODULES |= {
    f"{name}{dims}d": image_layer(getattr(nn, f"{name}{dims}d"), 4, 6, 3, dims=dims)
    for name in ("UpsampleConv", "ConvDownsample")
    for dims in (1, 2, 3)
}
NOT_MODULES = {"utils"}


def backward(outputs: list[torch.Tensor]) -> None:
    """Gradients, and those of their size where they depend on anything."""
    leaves = list(_leaves(outputs))
    grads = torch.autograd.grad([y.square().mean() for y in outputs], leaves, create_graph=True, allow_unused=True)
    sizes = [g.square().sum() for g in grads if g is not None and g.requires_grad]
    torch.autograd.grad(sizes, leaves, allow_unused=True)


def _leaves(outputs: list[torch.Tensor]):
    """The tensors that a graph starts from."""
    seen, todo = set(), [y.grad_fn for y in outputs]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo += [before for before, _ in node.next_functions]


def run_all() -> None:
    """All of them."""
    for call in FUNCTIONS.values():
        backward(call())
    for layer in MODULES.values():
        backward(layer()())
