"""Convolutions in every form against torch's, to the second order."""

import pytest
import torch
from samples import assert_as_exact

from fastgan.convolution import forms as form
from fastgan.convolution.double_backward import convolution


def options(padding=(0, 0), groups=1, stride=(1, 1), dilation=(1, 1)):
    return form.Options(list(stride), list(padding), list(dilation), False, [0, 0], groups)


# Name: x, weight, options; both sides of every rule.
FASTER = {
    "1x1": ((2, 5, 16, 16), (7, 5, 1, 1), options()),
    "1x1, few pixels": ((3, 5, 4, 4), (7, 5, 1, 1), options()),
    "1x1, one pixel": ((3, 5, 1, 1), (7, 5, 1, 1), options()),
    "1x1, more weights than pixels": ((3, 40, 16, 16), (300, 40, 1, 1), options()),
    "1x1, few pixels and many weights": ((2, 260, 2, 3), (260, 260, 1, 1), options()),
    "groups of 8": ((2, 16, 5, 6), (16, 8, 3, 3), options((1, 1), 2)),
    "groups of 8 and 16, other padding": ((2, 16, 5, 6), (32, 8, 2, 3), options((0, 2), 2)),
}
TORCHS = {
    "3x3": ((2, 4, 5, 5), (3, 4, 3, 3), options((1, 1))),
    "1x1, stride": ((2, 5, 6, 6), (7, 5, 1, 1), options(stride=(2, 2))),
    "1x1, padding": ((2, 5, 6, 6), (7, 5, 1, 1), options((1, 1))),
    "1x1, groups": ((2, 4, 6, 6), (4, 2, 1, 1), options(groups=2)),
    "empty batch": ((0, 5, 4, 4), (7, 5, 1, 1), options()),
    "groups of 8, stride": ((2, 16, 6, 6), (16, 8, 3, 3), options((1, 1), 2, (2, 2))),
    "groups of 8, dilation": ((2, 16, 6, 6), (16, 8, 3, 3), options((1, 1), 2, dilation=(2, 2))),
    "groups of 8, padding beyond the kernel": ((2, 16, 6, 6), (16, 8, 3, 3), options((3, 3), 2)),
    "groups of 4": ((2, 8, 6, 6), (8, 4, 3, 3), options((1, 1), 2)),
}


def tensors(name, dtype=torch.float64):
    torch.manual_seed(0)
    x, w, arguments = (FASTER | TORCHS)[name]
    made = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in (x, w, w[:1])]
    return made, arguments


def derivatives(run, tensors, along):
    """y, its derivatives and theirs, along given gradients of y and of each derivative: polynomials of all of these."""
    inputs = [t.detach().requires_grad_() for t in tensors]
    dy, *second = (t.detach().requires_grad_() for t in along)
    y = run(*inputs)
    first = torch.autograd.grad(y, inputs, dy, create_graph=True)
    return [y, *first, *torch.autograd.grad(first, [*inputs[:2], dy], second, materialize_grads=True)]


def directions(inputs, arguments):
    return [torch.randn_like(t) for t in (torch.ops.aten.convolution.default(*inputs, *arguments), *inputs)]


@pytest.mark.parametrize("name", FASTER | TORCHS)
def test_equals_torchs(name):
    inputs, arguments = tensors(name)
    x, w, _ = inputs
    assert form.has_faster_form(x, w, arguments) == (name in FASTER)
    along = directions(inputs, arguments)
    ours = derivatives(lambda *t: convolution(*t, arguments), inputs, along)
    theirs = derivatives(lambda *t: torch.ops.aten.convolution.default(*t, *arguments), inputs, along)
    assert ours[0].stride() == theirs[0].stride()
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "stride", "arguments"),
    [
        ((3, 2, 1, 2), (4, 1, 1, 2), options(groups=3, stride=(2, 2))),
        ((1, 3, 1, 2), (3, 1, 6, 3), options(stride=(2, 1), dilation=(2, 1))._replace(transposed=True)),
        ((3, 6, 2, 1), (12, 1, 6, 1), options(dilation=(1, 2))),
        ((6, 1, 2, 2), (1, 1, 12, 6), options(dilation=(2, 2), groups=6)),
        ((1, 6, 2, 2), (1, 1, 12, 6), options(dilation=(2, 2))),
        ((4, 2, 3), (6, 1, 2), form.Options([2], [2], [1], False, [0], 1)),
        ((4, 1, 3), (3, 1, 1), form.Options([2], [2], [1], False, [0], 2)),
    ],
)
def test_any_stride_of_a_dimension_of_size_one(shape, stride, arguments, dtype):
    """Torch 2.13 raises for the gradient of some such weights, or returns memory that it has not written."""

    def integers(*shape):
        """So small that nothing is rounded."""
        return torch.randint(-1, 2, shape).to(dtype)

    c_in = shape[0] if arguments.transposed else shape[1] * arguments.groups
    size = [1] if len(shape) == 3 else [5, 6]
    x = integers(3, *size, c_in).movedim(-1, 1).requires_grad_()
    plain = integers(*shape).requires_grad_()
    strided = torch.empty_strided(shape, stride, dtype=dtype).copy_(plain.detach()).requires_grad_()
    dy = integers(*torch.ops.aten.convolution.default(x, plain, None, *arguments).shape)
    dx, dw = integers(*x.shape), integers(*shape)

    def both_orders(weight):
        y = convolution(x, weight, None, arguments)
        first = torch.autograd.grad(y, (x, weight), dy, create_graph=True)
        return *first, *torch.autograd.grad(first, (x, weight), (dx, dw))

    torch.testing.assert_close(both_orders(strided), both_orders(plain), rtol=0, atol=0)


@pytest.mark.exact
@pytest.mark.parametrize("name", FASTER)
def test_is_as_exact_as_torchs(name):
    inputs, arguments = tensors(name, torch.float32)
    along = directions(inputs, arguments)

    def torchs(*tensors):
        return torch.ops.aten.convolution.default(*tensors, *arguments)

    ours = derivatives(lambda *t: convolution(*t, arguments), inputs, along)
    exact = [[t.double() for t in tensors] for tensors in (inputs, along)]
    added = derivatives(torchs, *([t.abs() for t in tensors] for tensors in exact))
    for got, *others in zip(ours, derivatives(torchs, inputs, along), derivatives(torchs, *exact), added, strict=True):
        assert_as_exact(got.detach(), *(t.detach() for t in others), along[0].numel())


@pytest.mark.parametrize("name", ["1x1", "1x1, few pixels", "groups of 8"])
def test_gradcheck(name):
    inputs, arguments = tensors(name)
    assert torch.autograd.gradcheck(lambda *t: convolution(*t, arguments), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *t: convolution(*t, arguments), inputs, fast_mode=True)


@pytest.mark.parametrize("name", FASTER)
def test_results_are_no_views(name):
    inputs, arguments = tensors(name)
    y = convolution(*inputs, arguments)
    results = [y, *torch.autograd.grad(y.sum() * 1.0, inputs, create_graph=True)]
    for result in results:
        result.mul_(2)  # autograd refuses that for a Function's views


@pytest.mark.parametrize(
    "change",
    {
        "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        "sliced": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
        "bfloat16": lambda x: x.bfloat16(),
    }.items(),
    ids=lambda change: change[0],
)
@pytest.mark.parametrize("name", ["1x1", "groups of 8"])
def test_torchs_form_for_other_inputs(name, change):
    (x, w, b), arguments = tensors(name, torch.float32)
    x = change[1](x)
    w, b = w.to(x.dtype), b.to(x.dtype)
    assert not form.has_faster_form(x, w, arguments)
    assert torch.equal(convolution(x, w, b, arguments), torch.ops.aten.convolution.default(x, w, b, *arguments))


def test_torchs_form_where_products_are_rounded():
    (x, w, _), arguments = tensors("1x1", torch.float32)
    assert form.has_faster_form(x, w, arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert not form.has_faster_form(x, w, arguments)
    torch.set_float32_matmul_precision("medium")
    try:
        assert not form.has_faster_form(x, w, arguments)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("asked", [0, 1, 2])
@pytest.mark.parametrize("name", ["1x1", "groups of 8"])
def test_only_what_was_asked_for_is_computed(name, asked, monkeypatch):
    inputs, arguments = tensors(name)
    y = convolution(*inputs, arguments)
    computed = []
    for product in ("input_gradient", "weight_gradient"):
        run = getattr(form, product)
        monkeypatch.setattr(form, product, lambda *a, run=run, product=product: computed.append(product) or run(*a))
    torch.autograd.grad(y.sum() * 1.0, inputs[asked])
    assert computed == [["input_gradient"], ["weight_gradient"], []][asked]
