"""The contract's table: a row per op, with the calls and the shapes that its kernels compute in ways of their own."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import torch

from contract import batches, channels, convolutions, resampling, spectral
from contract.activations import EACH
from contract.compare import Case
from contract.draw import Draw
from fastgan.functional import setup_filter

Fixed = Mapping[str, Any]


class Row(NamedTuple):
    """An op.

    Args:
        case: draws a call of it.
        calls: by name, answers that are fixed in turn.
        shapes: sizes for a thread, a warp, a block and several, of packets and not, of no values; every call has each.
        small: one that finite differences are taken at.
        image: one of four dimensions, for the layouts and the ways torch calls an op.
        large: more than one thread has; every call is made of it by 1, 2 and 7 threads.
        summed_by_torch: the inputs whose gradient is torch's sum, whose bits depend on the threads.
        constants_move: the calls that hold something constant that depends on the inputs, as autograd does: finite
            differences see another derivative.
        in_full: the names of calls that are compiled, exported and transformed; the others differ in no code there.
    """

    case: Callable[[Draw, torch.dtype], Case]
    calls: Mapping[str, Fixed]
    shapes: Sequence[Any]
    small: Any
    image: Any
    large: Any
    summed_by_torch: tuple[str, ...] = ()
    constants_move: Sequence[str] = ()
    in_full: Sequence[str] | None = None


# Of packets and not; a channel longer than a chunk, and than the threads of a block reach; a long row of short
# channels; one dimension; empty.
ELEMENTWISE = [(5,), (7, 1), (70, 3), (300, 24), (9, 2, 3, 3), (5, 16, 7), (3, 70, 4, 4), (2, 3, 37, 37)]
ELEMENTWISE += [(2, 8, 48, 48), (1, 2, 9000), (2, 9000, 2), (0, 3), (4, 0), (3, 2, 0)]
# Of one position and many, few channels and more than a row of them holds; of whole packets and not; empty.
CHANNELS = [(5, 3), (3, 130), (4, 2, 3), (2, 5, 3, 3), (3, 16, 8, 8), (2, 3, 37, 37), (2, 70, 5, 5), (2, 600, 2, 2)]
CHANNELS += [(1, 2, 70, 70), (2, 64, 2, 4, 4), (21, 3, 50), (70, 40, 4, 4), (0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)]
# For a thread, some lanes, a warp, a block, several blocks; of packets and not; no dimension but the first; empty.
SAMPLES = [(5,), (7, 1), (70, 3), (9, 2, 3, 3), (5, 16, 7), (3, 1000), (2, 1025), (3, 3, 37, 37), (2, 4, 64, 64)]
SAMPLES += [(1, 20000), (0, 3), (4, 0), (0,)]
# Lines of whole packets and not, more than a line holds, one pixel, no enlargement; the factor.
SHUFFLES = [((2, 8, 4, 16), 2), ((3, 12, 5, 7), 2), ((2, 18, 3, 4), 3), ((2, 3, 4, 4), 1), ((2, 4, 1, 1), 2)]
SHUFFLES += [((1, 4, 2, 1100), 2), ((1, 1200, 2, 1), 2), ((1, 256, 2, 3), 16), ((0, 4, 2, 2), 2), ((2, 0, 2, 2), 2)]
SHUFFLES += [((2, 4, 0, 2), 2)]
# Shape, group_size, num_channels: one value, parts of several sizes, one group, several slices, no channel left out.
GROUPS = [((4, 3), 4, 1), ((2, 5, 3), 4, 1), ((6, 4, 3, 3), 3, 2), ((8, 7, 4, 4), None, 7), ((4, 6, 37, 21), 2, 2)]
GROUPS += [((4, 1, 33, 37), 4, 1), ((1, 4, 2, 2), 4, 1), ((0, 4, 3, 3), 4, 1), ((4, 2, 0, 3), 4, 1), ((4, 2051), 2, 1)]
IMAGES = [(2, 3, 7, 9), (1, 1, 12, 5), (2, 40, 6, 7), (0, 3, 8, 9), (2, 0, 8, 9)]

F4 = setup_filter([1, 3, 3, 1])
F12 = setup_filter([1, 2, 3, 5, 9, 20, 19, 10, 6, 4, 2, 1])
F_DENSE = torch.tensor([[1.0, -2, 3], [0.5, 7, -4]])  # no product of two, of different sizes
# What networks do, and more: filter, up, down, padding [x0, x1, y0, y1], flip, gain.
RESAMPLINGS = {
    "up2": (F4, [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0),
    "down2": (F4, [1, 1], [2, 2], [1, 1, 1, 1], False, 1.0),
    "blur": (F4, [1, 1], [1, 1], [2, 1, 2, 1], True, 1.0),
    "up2-12": (F12, [2, 2], [1, 1], [6, 5, 6, 5], False, 4.0),
    "down2-12": (F12, [1, 1], [2, 2], [5, 5, 5, 5], False, 1.0),
    "dense": (F_DENSE, [2, 3], [3, 1], [1, 2, -1, 3], False, -2.0),
    "cropped": (F4, [1, 2], [2, 1], [-1, 3, 2, -2], False, 1.0),
    "ratio": (F12, [3, 3], [2, 2], [5, 4, 3, 2], True, 0.5),
}
# An activation, alpha, gain, clamp after them; "two": swish, and an lrelu that falls, are a pass of their own.
AFTER = {
    "up2-lrelu": ("up2", "lrelu", None, None, None),
    "up2-lrelu-clamp": ("up2", "lrelu", 0.1, 1.5, 0.75),
    "down2-relu": ("down2", "relu", None, None, None),
    "blur-linear-clamp": ("blur", "linear", None, 2.0, 0.25),
    "linear": ("down2", "linear", None, None, None),
    "dense-lrelu": ("dense", "lrelu", None, None, 5.0),
    "two-swish": ("up2", "swish", None, None, None),
    "two-falling": ("up2", "lrelu", -0.5, None, None),
}


def _with(calls: Mapping[str, Fixed], **fixed: Any) -> dict[str, Fixed]:
    return {name: {**call, **fixed} for name, call in calls.items()}


def _without_bias(calls: Mapping[str, Fixed]) -> dict[str, Fixed]:
    """With a bias each, and two more without one."""
    with_bias = _with(calls, bias=True)
    return with_bias | {f"{name}, no bias": {**with_bias[name], "bias": False} for name in list(calls)[1:3]}


# Per channel [C], per sample and channel [N, C], or not there.
BOTH = ("scale", "shift")
AFFINE = [{"given": BOTH, "values": (1, 1)}, {"given": BOTH, "values": (2, 2)}, {"given": BOTH, "values": (2, 1)}]
AFFINE += [{"given": ()}, {"given": ("scale",), "values": (1, 1)}, {"given": ("shift",), "values": (1, 2)}]

TABLE = {
    "bias_act": Row(
        channels.bias_act,
        _without_bias(_with(EACH, dim=1)),
        ELEMENTWISE,
        small=(2, 3, 2),
        image=(5, 4, 6, 8),
        large=(3, 7, 71, 71),
        in_full=("linear", "lrelu", "tanh", "gelu"),
    ),
    "sum_channels": Row(
        channels.sum_channels,
        {"": {}},
        [*ELEMENTWISE, (513, 40), (2000, 8), (300, 3, 5), (64, 130, 2, 2), (20, 2, 3000)],
        small=(2, 3, 2),
        image=(5, 4, 6, 8),
        large=(70001, 5),
    ),
    "scale_shift_act": Row(
        channels.scale_shift_act,
        {act: {"act": act, **values} for act, values in zip(EACH, cycle(AFFINE), strict=False)},
        CHANNELS,
        small=(3, 2, 3),
        image=(5, 4, 6, 8),
        large=(3, 40, 31, 33),
        in_full=("linear", "lrelu", "tanh", "sigmoid"),
    ),
    **{
        f"{norm}_norm_act": Row(
            channels.norm_act,
            _with(
                {act: {"act": act, **values} for act, values in zip(EACH, cycle(AFFINE), strict=False)},
                norm=norm,
                training=True,
                moving=False,
            )
            | {
                "moving": {"act": "lrelu", **AFFINE[0], "norm": norm, "training": True, "moving": True},
                "evaluation": {"act": "tanh", **AFFINE[2], "norm": norm, "training": False},
            },
            CHANNELS,
            small=(3, 2, 3),
            image=(5, 4, 6, 8),
            large=(3, 40, 31, 33),
            in_full=("linear", "lrelu", "tanh", "sigmoid", "evaluation"),  # vmap cannot move statistics,
        )
        for norm in ("batch", "instance")
    },
    "pixel_shuffle_act": Row(
        channels.pixel_shuffle_act,
        _without_bias(_with(EACH, alpha=None)),
        SHUFFLES,
        small=((2, 4, 2, 3), 2),
        image=((5, 8, 6, 8), 2),
        large=((3, 16, 31, 40), 2),
        in_full=("linear", "tanh"),
    ),
    "minibatch_stddev": Row(
        channels.minibatch_stddev,
        {"": {}},
        GROUPS,
        small=((4, 2, 2), 2, 2),
        image=((4, 6, 5, 7), 2, 3),
        large=((8, 64, 33, 17), 4, 4),
    ),
    "sample_norm": Row(
        batches.sample_norm,
        {"norm": {"squared": False}, "squared": {"squared": True}},
        SAMPLES,
        small=(3, 2, 2),
        image=(5, 4, 6, 8),
        large=(3, 70001),
    ),
    "scale_samples": Row(
        batches.scale_samples,
        {"": {}},
        SAMPLES,
        small=(3, 2, 2),
        image=(5, 4, 6, 8),
        large=(3, 70001),
        summed_by_torch=("c",),
    ),
    "interpolate": Row(
        batches.interpolate,
        {"": {}},
        SAMPLES,
        small=(3, 2, 2),
        image=(5, 4, 6, 8),
        large=(3, 70001),
        summed_by_torch=("eps",),
    ),
    "upfirdn2d": Row(
        resampling.upfirdn2d,
        {name: {"resampling": values} for name, values in RESAMPLINGS.items()},
        IMAGES,
        small=(1, 2, 4, 5),
        image=(3, 4, 6, 8),
        large=(2, 70, 40, 33),
        in_full=("up2", "blur"),
    ),
    "upfirdn2d_bias_act": Row(
        resampling.upfirdn2d_bias_act,
        _without_bias(
            {
                name: {"resampling": RESAMPLINGS[first], "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
                for name, (first, act, alpha, gain, clamp) in AFTER.items()
            }
        ),
        IMAGES,
        small=(1, 2, 4, 5),
        image=(3, 4, 6, 8),
        large=(2, 70, 40, 33),
        in_full=("up2-lrelu", "blur-linear-clamp", "two-swish"),
    ),
    "spectral_norm": Row(
        spectral.spectral_norm,
        {
            f"{order}, {'training' if training else 'evaluation'}": {"order": order, "training": training}
            for order in ("u_first", "v_first")
            for training in (True, False)
        },
        [[(5, 3)], [(1, 9), (9, 1), (1, 1)], [(8, 4, 3, 3), (40, 72)], [(3, 2056), (130, 130)]],
        small=[(3, 4), (2, 2, 2)],
        image=[(4, 6), (6, 3, 2, 2)],
        large=[(257, 600), (64, 32, 3, 3)],
        constants_move=("u_first, training", "v_first, training"),
    ),
}
# What is drawn at random: the rows, and what is made of convolutions and of these ops.
RANDOM = [
    *(row.case for row in TABLE.values()),
    resampling.shorthands,
    convolutions.convolution,
    convolutions.transposed,
    convolutions.resampled,
    convolutions.resampled,
    spectral.spectral_norm,
]
