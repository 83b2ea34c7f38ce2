"""What compares an op with its formula finds every kind of mistake."""

import pytest
import torch

from contract.channels import scale_shift_act
from contract.compare import Expected
from contract.draw import Draw

FIXED = {"shape": (3, 4, 5, 6), "act": "tanh", "given": ("scale", "shift"), "all": True, "zeros": False, "scale": 1.0}


class _Gradient(torch.autograd.Function):
    """The value of y, and a gradient that is off by a factor, or cannot be differentiated."""

    @staticmethod
    def forward(ctx, y, factor, once):
        ctx.factor, ctx.once = factor, once
        return y.clone()

    @staticmethod
    def backward(ctx, dy):
        dy = dy * ctx.factor
        return dy.detach() if ctx.once else dy, None, None


def _changed(y, x):
    x.data.mul_(2)
    return y


def _without_gradients(y):
    return y if torch.is_grad_enabled() else y + 1


WRONG = {
    "value": lambda y, x, dtype: y * (1 + 512 * torch.finfo(dtype).eps),
    "not finite": lambda y, x, dtype: torch.where(y == y.max(), torch.nan, y),
    "gradient of": lambda y, x, dtype: _Gradient.apply(y, 1 + 512 * torch.finfo(dtype).eps, False),
    "second derivative": lambda y, x, dtype: _Gradient.apply(y, 1, True),
    "shares x's memory": lambda y, x, dtype: x,
    "x was changed": lambda y, x, dtype: _changed(y, x),
    "value without gradients": lambda y, x, dtype: _without_gradients(y),
    "torch.float": lambda y, x, dtype: y.to(torch.float64 if dtype != torch.float64 else torch.float32),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", WRONG)
def test_a_mistake_is_found(kind, dtype):
    d = Draw(3, **FIXED, layout="contiguous")
    right = scale_shift_act(d, dtype)
    wrong = right._replace(ours=lambda x, **given: WRONG[kind](right.ours(x, **given), x, dtype))
    assert not Expected(right, d).problems()
    assert any(kind in problem for problem in Expected(wrong, d).problems())
