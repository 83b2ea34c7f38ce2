"""Bias, activation and pixel shuffle: every backend against float64, torch and the contract of an op."""

import pytest
import torch
from samples import (
    DTYPES,
    LAYOUTS,
    assert_as_exact,
    assert_same_bits_from_any_number_of_threads,
    computed_once,
    draw,
    layouts,
    majorant,
)
from torch.nn import functional as F

import fastgan
from fastgan import functional
from fastgan.ops import pixel_shuffle_act as op_module
from fastgan.ops.op import decompositions
from fastgan.reference import activations

# (shape, upscale_factor): lines of whole packets and not, more than a line holds, one pixel, no enlargement.
CASES = [((2, 8, 4, 16), 2), ((3, 12, 5, 7), 2), ((2, 18, 3, 4), 3), ((2, 3, 4, 4), 1), ((2, 4, 1, 1), 2)]
CASES += [((1, 4, 2, 1100), 2), ((1, 1200, 2, 1), 2), ((1, 256, 2, 3), 16)]
KEPT = ["channels_last"]


def plain(x, bias, factor, act="linear", alpha=0.2):
    z = x if bias is None else x + bias.view(-1, 1, 1).to(x.dtype)
    return F.pixel_shuffle(activations.value(act, z, alpha), factor)


def terms(x, bias, factor):
    """What y, and gradients, would be if no two terms that are added had different signs."""
    return F.pixel_shuffle(majorant(x + bias.view(-1, 1, 1)), factor)


def inputs(shape, dtype=torch.float64, device="cpu", last=False):
    x = draw(shape, dtype, device)
    bias = draw(shape[1:2], torch.promote_types(dtype, torch.float32), device, 1)
    return [x.to(memory_format=torch.channels_last) if last else x, bias]


def results(function, tensors, dy, *options):
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = function(*tensors, *options)
    return [y.detach(), *torch.autograd.grad(y, tensors, dy)]


def upstream(shape, factor, dtype=torch.float64, device="cpu"):
    n, c, h, w = shape
    return draw((n, c // factor**2, h * factor, w * factor), dtype, device, 5)


@pytest.mark.exact
@pytest.mark.parametrize("act", ["linear", "lrelu", "gelu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_exact_as_torch(target, dtype, act):
    for shape, factor in CASES:
        for last in (False, True):
            arguments, dy = inputs(shape, dtype, target, last), upstream(shape, factor, dtype, target)
            exact = [t.double().cpu().contiguous() for t in arguments]
            truths = computed_once(results, plain, exact, dy.double().cpu(), factor, act)
            torchs = computed_once(results, plain, [t.to(dtype) for t in arguments], dy, factor, act)
            added = computed_once(results, terms, [t.abs() for t in exact], dy.double().cpu().abs(), factor)
            ours = results(functional.pixel_shuffle_act, arguments, dy, factor, act)
            for got, theirs, truth, of in zip(ours, torchs, truths, added, strict=True):
                # The gradient of the bias is a sum of dx as it is stored.
                assert_as_exact(got, theirs.to(got.dtype), truth, of, dy.numel(), computed_in=dtype)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(target, name):
    x, bias = inputs((5, 4, 6, 8), device=target)
    laid_out = layouts(x)[name]
    y = functional.pixel_shuffle_act(laid_out, bias, 2, "tanh")
    torch.testing.assert_close(y, plain(laid_out, bias, 2, "tanh"))
    assert y.is_contiguous(memory_format=torch.channels_last if name in KEPT else torch.contiguous_format)
    for dy in (torch.ones_like(y), y.new_ones(()).expand_as(y), y.detach().mT.contiguous().mT):
        for a, b in zip(results(functional.pixel_shuffle_act, [laid_out, bias], dy, 2, "tanh"),
                        results(plain, [laid_out, bias], dy, 2, "tanh"), strict=True):  # fmt: skip
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(0, 4, 2, 2), (2, 0, 2, 2), (2, 4, 0, 2)], ids=str)
def test_empty(target, shape):
    y, dx, dbias = results(functional.pixel_shuffle_act, inputs(shape, device=target), upstream(shape, 2).to(target), 2)
    assert y.shape == upstream(shape, 2).shape
    assert dx.shape == shape
    assert torch.equal(dbias, torch.zeros_like(dbias))


@pytest.mark.parametrize("act", ["linear", "tanh"])
def test_gradcheck(target, act):
    tensors = [t.requires_grad_() for t in inputs((2, 4, 2, 3), device=target)]

    def compute(x, bias):
        return functional.pixel_shuffle_act(x, bias, 2, act)

    assert torch.autograd.gradcheck(compute, tensors)
    assert torch.autograd.gradgradcheck(compute, tensors)


def test_third_order(target):
    orders = []
    for function in (functional.pixel_shuffle_act, plain):
        tensors = [t.requires_grad_() for t in inputs((2, 4, 2, 3), device=target)]
        value = function(*tensors, 2, "tanh").sin().sum()
        for _ in range(3):
            grads = torch.autograd.grad(value, tensors, create_graph=True)
            value = sum(g.square().sum() for g in grads)
        orders.append(grads)
    for a, b in zip(*orders, strict=True):
        torch.testing.assert_close(a, b)


def test_the_sum_of_a_bias_is_taken_where_it_is_asked_for(target, monkeypatch):
    x, bias = (t.requires_grad_() for t in inputs((2, 4, 3, 3), device=target))
    y = functional.pixel_shuffle_act(x, bias, 2, "relu")
    sums, dtype_of_sums = [], op_module.accumulation_dtype
    monkeypatch.setattr(op_module, "accumulation_dtype", lambda dtype: sums.append(dtype) or dtype_of_sums(dtype))
    torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert not sums
    torch.autograd.grad(y.sum(), bias)
    assert len(sums) == 1


def test_linear_keeps_nothing():
    x, bias = (t.requires_grad_() for t in inputs((2, 4, 3, 3)))
    assert functional.pixel_shuffle_act(x, bias).grad_fn.saved_tensors == (None, None)


def test_same_bits_from_any_number_of_threads():
    dy = upstream((3, 16, 31, 40), 2, torch.float32)
    for last in (False, True):
        arguments = inputs((3, 16, 31, 40), torch.float32, last=last)
        assert_same_bits_from_any_number_of_threads(
            lambda arguments=arguments: results(functional.pixel_shuffle_act, arguments, dy, 2, "tanh")
        )


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("act", ["linear", "tanh"])
def test_opcheck(target, act, last):
    x, bias = (t.requires_grad_() for t in inputs((2, 8, 3, 2), device=target, last=last))
    torch.library.opcheck(torch.ops.fastgan.pixel_shuffle_act.default, (x, bias, 2, act, 0.0))


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile(target, compiler):
    arguments, dy = inputs((2, 8, 3, 2), device=target), upstream((2, 8, 3, 2), 2, device=target)
    compiled = torch.compile(functional.pixel_shuffle_act, fullgraph=True, backend=compiler)
    for a, b in zip(results(compiled, arguments, dy, 2, "tanh"), results(plain, arguments, dy, 2, "tanh"), strict=True):
        torch.testing.assert_close(a, b)


def test_export_and_decompositions(target):
    module = fastgan.nn.PixelShuffleUpsample(3, 2, act="lrelu").to(target)
    x = draw((2, 3, 4, 5), torch.float32, target)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))
    decomposed = program.run_decompositions(decompositions())
    assert not [node for node in decomposed.graph.nodes if "fastgan" in str(node.target)]
    torch.testing.assert_close(decomposed.module()(x), module(x))


def test_torch_func_and_vmap(target):
    x, bias = draw((3, 2, 4, 2, 2), device=target), draw((3, 4), device=target)

    def curve(x, bias):
        return functional.pixel_shuffle_act(x, bias, 2, "tanh").sin().sum()

    def expected(x, bias):
        return plain(x, bias, 2, "tanh").sin().sum()

    for a, b in zip(torch.func.grad(curve, (0, 1))(x[0], bias[0]), torch.func.grad(expected, (0, 1))(x[0], bias[0]),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)
    for dims, given in (((0, 0), bias), ((0, None), bias[0])):
        both = torch.func.vmap(torch.func.grad(curve, (0, 1)), in_dims=dims)(x, given)
        truth = torch.func.vmap(torch.func.grad(expected, (0, 1)), in_dims=dims)(x, given)
        for a, b in zip(both, truth, strict=True):
            torch.testing.assert_close(a, b)


def test_forward_mode_raises():
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(functional.pixel_shuffle_act, tuple(inputs((2, 4, 3, 3))), tuple(inputs((2, 4, 3, 3))))


@pytest.mark.parametrize("bias", [True, False])
def test_module_is_a_convolution_and_a_shuffle(target, bias):
    ours = fastgan.nn.PixelShuffleUpsample(3, 2, act="lrelu", bias=bias).to(target)
    conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=bias).to(target)
    conv.load_state_dict(ours.state_dict())
    x = draw((2, 3, 5, 4), torch.float32, target)
    torch.testing.assert_close(ours(x), F.pixel_shuffle(F.leaky_relu(conv(x), 0.2), 2))


X, B = torch.ones(2, 8, 3, 3), torch.ones(8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.pixel_shuffle_act(X[0], B), ValueError, r"x must be \[N, C, H, W\], got"),
        (lambda: functional.pixel_shuffle_act(X, B, 3), ValueError, "x must have a multiple of 9 channels"),
        (lambda: functional.pixel_shuffle_act(X, B, 17), ValueError, "upscale_factor must be an integer from 1 to 16"),
        (lambda: functional.pixel_shuffle_act(X, B, 2.0), ValueError, "upscale_factor must be an integer from 1 to 16"),
        (lambda: functional.pixel_shuffle_act(X, B[:2]), ValueError, r"bias must be \[8\]"),
        (lambda: functional.pixel_shuffle_act(X, X[..., 0, 0]), ValueError, r"bias must be \[8\], one number"),
        (lambda: functional.pixel_shuffle_act(X, B, 2, "sine"), ValueError, "act must be one of linear"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("options", [{"dilation": 2}, {"kernel_size": (3, 5)}, {"padding": 0}], ids=str)
def test_module_keeps_the_size_unless_told(options):
    y = fastgan.nn.PixelShuffleUpsample(3, 2, **options)(torch.ones(1, 3, 6, 6))
    assert y.shape == ((1, 2, 8, 8) if "padding" in options else (1, 2, 12, 12))
