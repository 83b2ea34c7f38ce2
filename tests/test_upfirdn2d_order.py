"""`upfirdn2d` that reads one memory format and writes another: the same values, and gradients in x's format."""

import pytest
import torch
from samples import DTYPES, assert_as_exact, assert_same_bits_from_any_number_of_threads, draw, layouts

from fastgan import functional
from fastgan.filters import Resampling
from fastgan.ops.bias_act import make_spec
from fastgan.ops.upfirdn2d import resampled
from fastgan.ops.upfirdn2d_bias_act import resampled_activated
from fastgan.reference import upfirdn2d as reference

F12 = functional.setup_filter([1, 2, 3, 5, 9, 20, 19, 10, 6, 4, 2, 1])
CASES = {
    "box": (torch.ones(2), [1, 1], [1, 1], [1, 1, 1, 1], False, 0.25),
    "up2": (functional.setup_filter([1, 3, 3, 1]), [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0),
    "down2-12": (F12, [1, 1], [2, 2], [5, 5, 5, 5], True, 1.0),
    "dense": (torch.tensor([[1.0, -2, 3], [0.5, 7, -4]]), [2, 3], [3, 1], [1, 2, -1, 3], False, -2.0),
    "ratio": (F12, [3, 1], [2, 3], [5, 4, 8, 9], False, 0.5),
}
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}
each = pytest.mark.parametrize("case", CASES)
each_order = pytest.mark.parametrize(("x_last", "y_last"), [(a, b) for a in (False, True) for b in (False, True)])


def resample(x, case, channels_last, function=resampled):
    f, *options = CASES[case]
    return function(x, f.to(x.device), Resampling(*options, channels_last))


def image(shape, dtype, device, channels_last):
    return draw(shape, dtype, device).contiguous(memory_format=FORMATS[channels_last])


@pytest.mark.exact
@each
@each_order
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_exact_as_torch_and_as_asked_for(target, dtype, x_last, y_last, case):
    for shape in ((2, 3, 7, 9), (3, 1, 8, 12), (2, 37, 6, 7)):
        x = image(shape, dtype, target, x_last).requires_grad_()
        y = resample(x, case, y_last)
        exact = resample(x.detach().double().cpu(), case, y_last, reference.forward)
        plain = resample(x.detach().float() if dtype.itemsize == 2 else x.detach(), case, y_last, reference.forward)
        assert y.is_contiguous(memory_format=FORMATS[y_last])
        f, *options, gain = CASES[case]
        added = reference.forward(x.detach().double().cpu().abs(), f.abs(), Resampling(*options, abs(gain)))
        assert_as_exact(y.detach(), plain.to(dtype), exact, added, f.numel() ** 2)
        # Whatever the order of the gradient that arrives, that of x has x's format.
        for dy in (torch.ones_like(y), image(y.shape, dtype, target, not y_last), y.new_ones(()).expand_as(y)):
            (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True)
            assert dx.is_contiguous(memory_format=FORMATS[x_last])
            (as_x,) = torch.autograd.grad(resample(x, case, None), x, dy)
            torch.testing.assert_close(dx, as_x)


@pytest.mark.parametrize("name", ["permuted", "batch_inside", "sliced", "misaligned", "expanded"])
@pytest.mark.parametrize("y_last", [False, True])
def test_layouts(target, name, y_last):
    x = draw((3, 20, 6, 8), torch.float32, target)
    laid_out = layouts(x)[name]
    y = resample(laid_out, "up2", y_last)
    assert y.is_contiguous(memory_format=FORMATS[y_last])
    torch.testing.assert_close(y, resample(laid_out.contiguous(), "up2", None))


@each_order
def test_tiles_meet(target, x_last, y_last):
    """Several tiles along every axis, groups of channels that are cut short, rows longer than a tile."""
    for shape, case in (((1, 18, 75, 301), "up2"), ((3, 130, 21, 19), "box"), ((1, 2, 9, 9000), "ratio")):
        x = image(shape, torch.float32, target, x_last)
        exact = resample(x.double().cpu(), case, y_last, reference.forward)
        torch.testing.assert_close(resample(x, case, y_last), exact.float().to(target))


def test_filter_of_which_one_pixel_fills_a_tile(target):
    f, x = draw((64,), torch.float32, target, 2), draw((1, 17, 70, 66), torch.float64, target)
    torch.testing.assert_close(
        resampled(x, f, Resampling((1, 1), (1, 1), (0, 0, 0, 0), False, 1.0, True)),
        reference.forward(x, f, Resampling((1, 1), (1, 1), (0, 0, 0, 0), False, 1.0)),
    )


@each_order
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_from_any_number_of_threads(dtype, x_last, y_last):
    x = image((2, 70, 40, 33), dtype, "cpu", x_last)
    assert_same_bits_from_any_number_of_threads(lambda: [resample(x, "up2", y_last)])


@pytest.mark.parametrize("y_last", [False, True])
def test_empty_batches(target, y_last):
    for shape in ((0, 3, 8, 9), (2, 0, 8, 9)):
        x = draw(shape, device=target).requires_grad_()
        y = resample(x, "up2", y_last)
        assert y.shape[:2] == shape[:2]
        assert torch.autograd.grad(y, x, y)[0].shape == shape


@each
@pytest.mark.parametrize("x_last", [False, True])
def test_gradcheck(target, case, x_last):
    x = image((1, 2, 4, 5), torch.float64, target, x_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: resample(x, case, not x_last), x)
    assert torch.autograd.gradgradcheck(lambda x: resample(x, case, not x_last), x)


@each_order
def test_bias_and_activation(target, x_last, y_last):
    """The fused op beside the two: result, gradients, and their formats."""
    f, *options = CASES["up2"]
    spec = make_spec(1, "lrelu", None, None, None)
    x, b = image((2, 20, 6, 7), torch.float64, target, x_last).requires_grad_(), draw((20,), device=target, seed=1)
    b.requires_grad_()
    y = resampled_activated(x, f.to(target), Resampling(*options, y_last), b, spec)
    expected = functional.bias_act(resample(x, "up2", None), b, act="lrelu")
    assert y.is_contiguous(memory_format=FORMATS[y_last])
    torch.testing.assert_close(y, expected)
    got, wanted = (torch.autograd.grad(t.sin().sum(), (x, b), create_graph=True) for t in (y, expected))
    assert got[0].is_contiguous(memory_format=FORMATS[x_last])
    torch.testing.assert_close(got, wanted)
    second = [torch.autograd.grad(dx.square().sum(), x)[0] for dx, _ in (got, wanted)]
    torch.testing.assert_close(*second)
    torch.library.opcheck(
        torch.ops.fastgan.upfirdn2d_bias_act.default, (x, f.to(target), b, *options, y_last, "lrelu", 0.2, 1.5, None)
    )


@each_order
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_opcheck(target, dtype, x_last, y_last):
    f, *options = CASES["up2"]
    for channels in (1, 3):
        x = image((2, channels, 7, 9), dtype, target, x_last).requires_grad_()
        torch.library.opcheck(torch.ops.fastgan.upfirdn2d.default, (x, f.to(target), *options, y_last))


@each_order
def test_compile(target, x_last, y_last):
    compiled = torch.compile(lambda x: resample(x, "up2", y_last), fullgraph=True, backend="aot_eager")
    x = image((2, 3, 7, 9), torch.float64, target, x_last).requires_grad_()
    y, expected = compiled(x), resample(x, "up2", y_last)
    assert y.stride() == expected.stride()
    torch.testing.assert_close(y, expected)
    dy = torch.ones_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, x, dy))


def test_torch_func(target):
    x = image((2, 3, 7, 9), torch.float64, target, channels_last=False)

    def curve(x):
        return resample(x, "up2", True).sin().sum()

    wanted = x.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(curve)(x), torch.autograd.grad(curve(wanted), wanted)[0])
    samples = draw((4, 2, 3, 7, 9), device=target)
    each_alone = torch.stack([resample(x, "up2", True) for x in samples])
    torch.testing.assert_close(torch.func.vmap(lambda x: resample(x, "up2", True))(samples), each_alone)
