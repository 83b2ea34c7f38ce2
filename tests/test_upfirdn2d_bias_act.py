"""FIR resampling with bias and activation: every backend against the two ops in float64, and the contract of an op."""

import pytest
import torch
from samples import DTYPES, assert_as_exact, assert_same_bits_from_any_number_of_threads, draw, majorant

from fastgan import backends, decompositions, functional
from fastgan.filters import Resampling
from fastgan.reference import activations
from fastgan.reference import upfirdn2d as reference

F4 = functional.setup_filter([1, 3, 3, 1])
F_DENSE = torch.tensor([[1.0, -2, 3], [0.5, 7, -4]])
# Filter, up, down, padding, flip, gain; activation, alpha, gain, clamp.
CASES = {
    "up2-lrelu": (F4, 2, 1, [2, 1, 2, 1], False, 4.0, "lrelu", None, None, None),
    "up2-lrelu-clamp": (F4, 2, 1, [2, 1, 2, 1], False, 4.0, "lrelu", 0.1, 1.5, 0.7),
    "down2-relu": (F4, 1, 2, 1, False, 1.0, "relu", None, None, None),
    "blur-linear-clamp": (F4, 1, 1, [2, 1, 2, 1], True, 1.0, "linear", None, 2.0, 0.3),
    "linear": (F4, 1, 2, 1, False, 1.0, "linear", None, None, None),
    "dense-lrelu": (F_DENSE, [2, 3], [3, 1], [1, 2, -1, 3], False, -2.0, "lrelu", None, None, 5.0),
    "two-swish": (F4, 2, 1, [2, 1, 2, 1], False, 4.0, "swish", None, None, None),
    "two-falling": (F4, 2, 1, [2, 1, 2, 1], False, 4.0, "lrelu", -0.5, None, None),
}
FUSED = [case for case in CASES if not case.startswith("two")]
each = pytest.mark.parametrize("case", CASES)
SHAPES = ((2, 3, 7, 9), (3, 40, 6, 7), (1, 1, 12, 5), (2, 0, 4, 4))


def fused(x, b, case):
    f, up, down, padding, flip, gain, act, alpha, act_gain, clamp = CASES[case]
    return functional.upfirdn2d_bias_act(
        x, f.to(x.device), b, up, down, padding, flip, gain, act, alpha, act_gain, clamp
    )


def two(x, b, case):
    f, up, down, padding, flip, gain, act, alpha, act_gain, clamp = CASES[case]
    y = functional.upfirdn2d(x, f.to(x.device), up, down, padding, flip, gain)
    return functional.bias_act(y, b, 1, act, alpha, act_gain, clamp)


def terms(x, b, case):
    """What y would be if no two terms that are added had different signs."""
    f, up, down, padding, flip, gain, act, _, act_gain, _ = CASES[case]
    up, down = ([v, v] if isinstance(v, int) else v for v in (up, down))
    padding = [padding] * 4 if isinstance(padding, int) else padding
    y = reference.forward(x.double().cpu().abs(), f.abs(), Resampling(up, down, padding, flip, abs(gain)))
    gain = activations.FACTS[act].gain if act_gain is None else act_gain
    return abs(gain) * majorant(y + b.double().cpu().abs()[:, None, None])


def inputs(shape, dtype, target, channels_last=False, b_dtype=None):
    x, b = draw(shape, dtype, target), draw((shape[1],), b_dtype or dtype, target, 3)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x, b


@pytest.mark.exact
@each
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_exact_as_torch(target, dtype, channels_last, case):
    for shape in SHAPES:
        x, b = inputs(shape, dtype, target, channels_last)
        with backends.backend("reference"):
            truth = two(x.double(), b.double(), case)
            plain = two(x.float(), b.float(), case).to(dtype) if dtype.itemsize == 2 else two(x, b, case)
        y = fused(x, b, case)
        assert y.stride() == two(x, b, case).stride()
        # Of the two ops the first rounds what the second takes.
        kept = dtype if case.startswith("two") else None
        assert_as_exact(y, plain, truth.cpu(), terms(x, b, case), 144, computed_in=kept)


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


@pytest.mark.parametrize("case", FUSED)
@pytest.mark.parametrize("channels_last", [False, True])
def test_same_bits_from_any_number_of_threads(case, channels_last):
    x, b = inputs((2, 70, 40, 33), torch.float32, None, channels_last)
    assert_same_bits_from_any_number_of_threads(lambda: [fused(x, b, case)])


def test_non_finite_numbers(target):
    """relu of -inf is 0, a NaN stays one."""
    x = torch.tensor([-torch.inf, torch.nan, torch.inf, 1, -1, 0], device=target)[None, :, None, None]
    for act in ("relu", "lrelu", "linear"):
        wanted = functional.bias_act(x, None, act=act)
        y = functional.upfirdn2d_bias_act(x, None, act=act)
        torch.testing.assert_close(y, wanted, equal_nan=True)


# --- derivatives ---


@each
def test_gradcheck(target, case):
    x, b = inputs((1, 2, 4, 5), torch.float64, target)
    tensors = x.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, b: fused(x, b, case), tensors)
    assert torch.autograd.gradgradcheck(lambda x, b: fused(x, b, case), tensors)


@each
def test_gradients_are_those_of_the_two(target, case):
    x, b = inputs((2, 3, 7, 9), torch.float64, target)
    x.requires_grad_(), b.requires_grad_()
    y, wanted = fused(x, b, case), two(x, b, case)
    dy = draw(y.shape, torch.float64, target, 5).requires_grad_()
    first = torch.autograd.grad(y, (x, b), dy, create_graph=True)
    wanted_first = torch.autograd.grad(wanted, (x, b), dy, create_graph=True)
    torch.testing.assert_close(first, wanted_first)
    second = [torch.autograd.grad(g[0].square().sum() + g[1].square().sum(), dy)[0] for g in (first, wanted_first)]
    torch.testing.assert_close(*second)


def test_what_is_kept_and_what_is_computed():
    x, b = inputs((2, 3, 7, 9), torch.float32, None)
    assert fused(x, b, "up2-lrelu").grad_fn is None
    y = fused(x, b.requires_grad_(), "up2-lrelu")
    assert [t.shape for t in y.grad_fn.saved_tensors if t is not None] == [y.shape, (4, 4)]
    assert torch.equal(y.grad_fn.saved_tensors[0], y)
    y = fused(x.requires_grad_(), b, "linear")
    assert [t.shape for t in y.grad_fn.saved_tensors if t is not None] == [(4, 4)]


# --- the ways torch calls an op ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("act", ["lrelu", "linear"])
def test_opcheck(target, dtype, channels_last, act):
    x, b = inputs((2, 3, 7, 9), dtype, target, channels_last)
    options = [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0, None, act, 0.2, 1.5, None
    op = torch.ops.fastgan.upfirdn2d_bias_act.default
    torch.library.opcheck(op, (x.requires_grad_(), F4.to(target), b.requires_grad_(), *options))
    torch.library.opcheck(op, (x.detach(), F4.to(target), None, *options))


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@each
def test_compile(target, compiler, case):
    compiled = torch.compile(lambda x, b: fused(x, b, case), fullgraph=True, backend=compiler)
    x, b = inputs((2, 3, 7, 9), torch.float64, target)
    tensors = x.requires_grad_(), b.requires_grad_()
    y, wanted = compiled(*tensors), fused(*tensors, case)
    torch.testing.assert_close(y, wanted)
    dy = torch.ones_like(wanted)
    torch.testing.assert_close(torch.autograd.grad(y, tensors, dy), torch.autograd.grad(wanted, tensors, dy))


def test_decomposition():
    x, b = inputs((2, 3, 7, 9), torch.float64, None)
    how, activation = Resampling((2, 2), (1, 1), (2, 1, 2, 1), False, 4.0), ("lrelu", 0.2, 1.5, 0.5)
    arguments = x, F4, b, *map(list, how[:3]), *how[3:], *activation
    op = torch.ops.fastgan.upfirdn2d_bias_act.default
    expected = reference.forward_bias_act(x, F4, b, how, activation)
    torch.testing.assert_close(op(*arguments), expected)
    torch.testing.assert_close(decompositions()[op](*arguments), expected)


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


def test_forward_mode_raises():
    x, b = inputs((2, 3, 7, 9), torch.float64, None)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: fused(x, b, "up2-lrelu"), (x,), (x,))


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
