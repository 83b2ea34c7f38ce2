"""Ops on channels of tensors that are stored in any order, with dimensions of size 1, whose strides say nothing."""

from itertools import permutations, product

import pytest
import torch
from samples import draw

from fastgan import functional
from fastgan.ops import layout

OPS = {
    "bias_act": lambda x: functional.bias_act(x, draw(x.shape[1:2], device=x.device), act="lrelu"),
    "scale_shift_act": lambda x: functional.scale_shift_act(x, draw(x.shape[:2], device=x.device), None, act="lrelu"),
    "norm_act": lambda x: functional.norm_act(x, norm="batch", act="lrelu"),
    "pixel_shuffle_act": lambda x: functional.pixel_shuffle_act(x, act="lrelu", upscale_factor=1),
    "minibatch_stddev": lambda x: functional.minibatch_stddev(x, 2),
}


def stored_in_every_order(*choices, device="cpu"):
    """Yield tensors [4, C, ...] of all sizes that are chosen from, their dimensions in every order in memory."""
    for sizes in product(*choices):
        for order in permutations(range(1, len(sizes) + 1)):
            shape = (4, *sizes)
            stored = draw([shape[dim] for dim in (0, *order)], device=device)
            yield stored.permute(0, *(1 + order.index(dim) for dim in range(1, len(shape))))


def test_channels_are_at_an_end_of_the_order():
    for x in stored_in_every_order((1, 2), (1, 3), (1, 4), (1, 2)):
        order = layout.channel_order(x)
        assert order is None or (1 in (order[1], order[-1]) and x.permute(order).is_contiguous()), x.stride()


@pytest.mark.parametrize("op", OPS)
def test_the_order_in_memory_changes_no_value(target, op):
    for x in stored_in_every_order((1, 2), (1, 3), (1, 4), device=target):
        results = []
        for leaf in (x.detach().requires_grad_(), x.clone(memory_format=torch.contiguous_format).requires_grad_()):
            y = OPS[op](leaf)
            dy = draw(y.shape, device=target, seed=1)
            results.append([y, *torch.autograd.grad(y, leaf, dy)])
        torch.testing.assert_close(*results, msg=lambda text, x=x: f"{x.shape}, {x.stride()}: {text}")
