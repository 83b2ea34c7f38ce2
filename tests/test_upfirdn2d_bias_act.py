"""FIR resampling with bias and activation: beside the two ops; the contract of an op is in contract/."""

import pytest
import torch
from samples import draw

from fastgan import functional

F4 = functional.setup_filter([1, 3, 3, 1])
# Filter, up, down, padding, flip, gain; activation, alpha, gain, clamp.
CASES = {
    "up2-lrelu": (F4, 2, 1, [2, 1, 2, 1], False, 4.0, "lrelu", None, None, None),
    "down2-relu": (F4, 1, 2, 1, False, 1.0, "relu", None, None, None),
    "blur-linear-clamp": (F4, 1, 1, [2, 1, 2, 1], True, 1.0, "linear", None, 2.0, 0.3),
    "linear": (F4, 1, 2, 1, False, 1.0, "linear", None, None, None),
}


def fused(x, b, case):
    f, up, down, padding, flip, gain, act, alpha, act_gain, clamp = CASES[case]
    return functional.upfirdn2d_bias_act(
        x, f.to(x.device), b, up, down, padding, flip, gain, act, alpha, act_gain, clamp
    )


def two(x, b, case):
    f, up, down, padding, flip, gain, act, alpha, act_gain, clamp = CASES[case]
    y = functional.upfirdn2d(x, f.to(x.device), up, down, padding, flip, gain)
    return functional.bias_act(y, b, 1, act, alpha, act_gain, clamp)


def inputs(shape, dtype, target, channels_last=False, b_dtype=None):
    x, b = draw(shape, dtype, target), draw((shape[1],), b_dtype or dtype, target, 3)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x, b


@pytest.mark.parametrize("channels_last", [False, True])
def test_without_bias_and_with_a_bias_of_another_dtype(target, channels_last):
    for b_dtype in (None, torch.float32, torch.float64):
        x, b = inputs((2, 5, 8, 6), torch.bfloat16, target, channels_last, b_dtype)
        b = None if b_dtype is None else b
        exact = None if b is None else b.double()
        y = fused(x, b, "up2-lrelu")
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.double(), two(x.double(), exact, "up2-lrelu"), rtol=2**-8, atol=2**-8)


def test_tiles_meet(target):
    for shape in ((1, 2, 75, 301), (1, 130, 21, 19), (2, 173, 5, 6)):
        for channels_last in (False, True):
            for case in ("up2-lrelu", "down2-relu", "blur-linear-clamp"):
                x, b = inputs(shape, torch.float32, target, channels_last)
                torch.testing.assert_close(
                    fused(x, b, case).double(), two(x.double(), b.double(), case).to(x.device), rtol=1e-5, atol=1e-5
                )


def test_non_finite_numbers(target):
    """relu of -inf is 0, a NaN stays one."""
    x = torch.tensor([-torch.inf, torch.nan, torch.inf, 1, -1, 0], device=target)[None, :, None, None]
    for act in ("relu", "lrelu", "linear"):
        wanted = functional.bias_act(x, None, act=act)
        y = functional.upfirdn2d_bias_act(x, None, act=act)
        torch.testing.assert_close(y, wanted, equal_nan=True)


def test_what_is_kept_and_what_is_computed():
    x, b = inputs((2, 3, 7, 9), torch.float32, None)
    assert fused(x, b, "up2-lrelu").grad_fn is None
    y = fused(x, b.requires_grad_(), "up2-lrelu")
    assert [t.shape for t in y.grad_fn.saved_tensors if t is not None] == [y.shape, (4, 4)]
    assert torch.equal(y.grad_fn.saved_tensors[0], y)
    y = fused(x.requires_grad_(), b, "linear")
    assert [t.shape for t in y.grad_fn.saved_tensors if t is not None] == [(4, 4)]


# --- the ways torch calls an op ---


def test_torch_func_and_modes(target):
    x, b = inputs((2, 3, 7, 9), torch.float64, target)
    wanted = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(fused(wanted, b, "up2-lrelu").sin().sum(), wanted)
    torch.testing.assert_close(torch.func.grad(lambda x: fused(x, b, "up2-lrelu").sin().sum())(x), first)

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen = []
    with Watch():
        y = fused(x, b, "up2-lrelu")
    ours = functional.upfirdn2d, functional.bias_act
    assert [function for function in seen if function in ours] == list(ours)
    torch.testing.assert_close(y, fused(x, b, "up2-lrelu"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": torch.zeros(4)}, ValueError, "b must"),
        ({"b": 3}, TypeError, "b must"),
        ({"act": "sine"}, ValueError, "act must"),
        ({"clamp": -1}, ValueError, "clamp must be 0 or more"),
        ({"up": 0}, ValueError, "up must"),
        ({"padding": -9}, ValueError, "padding leaves nothing to compute"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        functional.upfirdn2d_bias_act(torch.zeros(1, 3, 4, 4), F4, **change)
