"""Spectral norm: beside float64, torch's modules, and what only lists have; the contract of an op is in contract/."""

import subprocess
import sys

import pytest
import torch
from samples import assert_as_exact, seeded
from torch.nn.functional import normalize
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook_spectral_norm

import fastgan
from fastgan import functional
from fastgan.reference import spectral_norm as reference

SHAPES = [(1, 1), (1, 9), (7, 1), (5, 3), (33, 70), (64, 2, 3, 3), (3, 1100), (130, 17)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ORDERS = ["u_first", "v_first"]


def make(shapes, dtype=torch.float64, device="cpu", seed=0):
    """Weights drawn from one seed, with u and v near their singular vectors: elsewhere sigma is all cancellation."""
    generator = seeded(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = [draw(*shape) for shape in shapes]
    us = [normalize(draw(w.shape[0]), dim=0) for w in weights]
    vs = [normalize(w.flatten(1).t() @ u, dim=0) for w, u in zip(weights, us, strict=True)]
    return [[t.to(dtype).to(device) for t in tensors] for tensors in (weights, us, vs)]


def double(lists):
    return [[t.double().cpu() for t in tensors] for tensors in lists]


def exact(weights, us, vs, **options):
    """The result in float64, from the same rounded inputs."""
    with fastgan.backend("reference"):
        return functional.spectral_norm(*double((weights, us, vs)), **options)


def plain(weights, us, vs, n_power_iterations=1, order="u_first", training=True):
    """What torch does, in the dtype of its arguments."""
    out = []
    for weight, u, v in zip(weights, us, vs, strict=True):
        w = weight.flatten(1)
        for _ in range(n_power_iterations if training else 0):
            if order == "u_first":
                u = normalize(torch.mv(w, v), dim=0, eps=1e-12)
                v = normalize(torch.mv(w.t(), u), dim=0, eps=1e-12)
            else:
                v = normalize(torch.mv(w.t(), u), dim=0, eps=1e-12)
                u = normalize(torch.mv(w, v), dim=0, eps=1e-12)
        sigma = torch.dot(u, torch.mv(w, v))
        out.append((weight / sigma, u, v, sigma))
    return out


def terms(weight, u, v, order="u_first", training=True):
    """The size of the terms of what `plain` returns, and of what it is computed from, for one weight in float64.

    The terms of a product W v have random signs, so that its partial sums are as large as the root of the sum of the
    terms' squares: squares are added here. What is computed from a product has its error as well as its own.
    """
    w = weight.flatten(1)
    squares, u_squares, v_squares = w.square(), u.square(), v.square()
    if training:
        for side in "uv" if order == "u_first" else "vu":
            if side == "u":
                t = w @ v
                u, u_squares = t / t.norm(), (t.square() + squares @ v_squares) / t.square().sum()
            else:
                t = w.t() @ u
                v, v_squares = t / t.norm(), (t.square() + squares.t() @ u_squares) / t.square().sum()
    sigma = u @ w @ v
    share = 1 + (u_squares @ squares @ v_squares) / sigma.square()
    return (weight / sigma) * share.sqrt(), u_squares.sqrt(), v_squares.sqrt(), sigma * share.sqrt()


def error(value, truth):
    """Largest difference, as a share of the largest value."""
    return ((value.double().cpu() - truth).abs().max() / truth.abs().max().clamp_min(1e-30)).item()


DRAWS = 3


@pytest.mark.exact
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_is_as_exact_as_torch(target, dtype, order, training):
    options = {"order": order, "training": training}
    for seed in range(DRAWS):
        inputs = make(SHAPES, dtype, target, seed)
        ours, truths, torchs = (
            functional.spectral_norm(*inputs, **options),
            exact(*inputs, **options),
            plain(*inputs, **options),
        )
        added = [terms(*tensors, **options) for tensors in zip(*double(inputs), strict=True)]
        for i, weight in enumerate(inputs[0]):
            for k in range(4):
                got, truth = ours[k][i], truths[k][i]
                assert_as_exact(got, torchs[i][k].to(got.dtype), truth, added[i][k], weight.numel())


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_is_as_exact_as_torch(target, dtype):
    def gradients(compute, inputs, grads):
        weights = [w.detach().requires_grad_() for w in inputs[0]]
        return torch.autograd.grad(compute(weights, *inputs[1:]), weights, grads)

    def ours(weights, us, vs):
        return functional.spectral_norm(weights, us, vs, training=False).weights

    def torchs(weights, us, vs):
        return [out[0] for out in plain(weights, us, vs, training=False)]

    def terms_of_gradient(weight, u, v, grad, truth):
        """Of (g - <g, W> / sigma * u v^T) / sigma."""
        *_, sigma = (t.squeeze() for t in plain([weight], [u], [v], training=False)[0])
        of_sigma = terms(weight, u, v, training=False)[3]
        inner = (grad * weight).norm() / sigma * torch.outer(u, v).view_as(weight)
        return ((grad.square() + inner.square()) / sigma.square() + (truth * of_sigma / sigma).square()).sqrt()

    # The gradient of a single number is zero but for rounding.
    shapes = SHAPES[1:]
    for seed in range(DRAWS):
        inputs, grads = make(shapes, dtype, target, seed), make(shapes, dtype, target, seed + 100)[0]
        *doubles, exact_grads = double([*inputs, grads])
        truths = gradients(torchs, doubles, exact_grads)
        added = map(terms_of_gradient, *doubles, exact_grads, truths)
        results = gradients(ours, inputs, grads), gradients(torchs, inputs, grads)
        for got, theirs, truth, of in zip(*results, truths, added, strict=True):
            assert_as_exact(got, theirs, truth, of, truth.numel())


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("order", ORDERS)
def test_iterations(target, order, iterations):
    inputs = make(SHAPES, torch.float64, target)
    ours = functional.spectral_norm(*inputs, order=order, n_power_iterations=iterations)
    for i, (weight, u, v, sigma) in enumerate(plain(*inputs, iterations, order)):
        torch.testing.assert_close(ours.weights[i], weight, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.us[i], u, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.vs[i], v, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.sigmas[i], sigma, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_order_is_torchs(order):
    layer = torch.nn.Conv2d(3, 8, 3).double()
    wrap = parametrizations.spectral_norm if order == "u_first" else torch_hook_spectral_norm
    layer = wrap(layer)
    if order == "u_first":
        norm = layer.parametrizations.weight[0]
        weight, u, v = layer.parametrizations.weight.original, norm._u.clone(), norm._v.clone()
    else:
        weight, u, v = layer.weight_orig, layer.weight_u.clone(), layer.weight_v.clone()
    ours = functional.spectral_norm([weight], [u], [v], order=order)
    layer(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    # Read in eval: one more read in training would iterate again.
    torch.testing.assert_close(ours.weights[0], layer.eval().weight, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_dtype(target, dtype, out_dtype):
    weights, us, vs = make([(6, 20), (3, 4, 5)], dtype, target)
    weights = [w.requires_grad_() for w in weights]
    ours = functional.spectral_norm(weights, us, vs, out_dtype=out_dtype)
    same = functional.spectral_norm(weights, us, vs, out_dtype=torch.float64)
    for a, b in zip(ours.weights, same.weights, strict=True):
        assert a.dtype == out_dtype
        assert error(a.detach(), b.detach().double().cpu()) <= 2 * torch.finfo(out_dtype).eps
    assert all(u.dtype == v.dtype == dtype for u, v in zip(ours.us, ours.vs, strict=True))
    assert ours.sigmas.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    gradients = torch.autograd.grad([w.double().pow(2).sum() for w in ours.weights], weights)
    truth = torch.autograd.grad([w.double().pow(3).sum() for w in same.weights], weights)
    assert all(g.dtype == dtype and g.isfinite().all() for g in (*gradients, *truth))


def layouts(device):
    """Name -> a [8, 4, 3, 3] weight with the same values in another layout."""
    base = torch.randn(8, 4, 3, 3, generator=seeded(2), dtype=torch.float64).to(device)
    wide = torch.zeros(16, 4, 3, 6, dtype=torch.float64, device=device)
    wide[::2, ..., ::2] = base
    flat = torch.zeros(base.numel() + 1, dtype=torch.float64, device=device)
    flat[1:] = base.flatten()
    return {
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "transposed": base.transpose(0, 1).contiguous().transpose(0, 1),
        "sliced": wide[::2, ..., ::2],
        "misaligned": flat[1:].view_as(base),
        "expanded": base[:, :1].expand(8, 4, 3, 3),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(layouts("cpu")))
def test_layouts(target, name, dtype):
    weight = layouts(target)[name].to(dtype)
    if name == "misaligned":
        weight = torch.cat([weight.flatten()[:1], weight.flatten()])[1:].view_as(weight)
        assert weight.data_ptr() % 16
    us, vs = ([t.to(dtype) for t in ts] for ts in make([(8, 36)], torch.float64, target)[1:])
    spread = torch.stack([us[0], us[0]], dim=1)[:, 0]  # strided u
    results = []
    for w, u in ((weight, spread), (weight.contiguous().clone(), us[0])):
        w = w.detach().requires_grad_()
        out = functional.spectral_norm([w], [u], vs)
        results.append((out, torch.autograd.grad(out.weights[0].pow(3).sum() + out.sigmas.sum(), w)[0]))
    (ours, grad), (truth, truth_grad) = results
    tolerance = {"rtol": 1e-12, "atol": 1e-14} if dtype == torch.float64 else {}
    for a, b in zip(
        (*ours.weights, *ours.us, *ours.vs, ours.sigmas, grad),
        (*truth.weights, *truth.us, *truth.vs, truth.sigmas, truth_grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, **tolerance)
    if name == "channels_last":
        assert ours.weights[0].stride() == weight.stride()


def test_many_layers(target):
    shapes = [(1 + i % 7, 1 + (3 * i) % 11) for i in range(150)]
    inputs = make(shapes, torch.float64, target)
    ours, truth = functional.spectral_norm(*inputs), exact(*inputs)
    for a, b in zip((*ours.weights, *ours.us, *ours.vs), (*truth.weights, *truth.us, *truth.vs), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-12)


def test_outputs_share_no_storage(target):
    inputs = make([(4, 5), (4, 5)], torch.float32, target)
    for training in (True, False):
        out = functional.spectral_norm(*inputs, training=training)
        tensors = [*out.weights, *out.us, *out.vs, out.sigmas, *(t for ts in inputs for t in ts)]
        assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)


def test_extreme_magnitudes(target):
    for scale in (1e-15, 1e15):
        weights, us, vs = make([(5, 40)], torch.float32, target)
        ours = functional.spectral_norm([weights[0] * scale], us, vs, eps=0.0)
        truth = exact([weights[0] * scale], us, vs, eps=0.0)
        assert error(ours.weights[0], truth.weights[0]) < 1e-5


def test_eps_bounds_the_norms(target):
    inputs = make([(5, 40)], torch.float64, target)
    for order in ORDERS:
        ours, truth = functional.spectral_norm(*inputs, eps=100.0, order=order), exact(*inputs, eps=100.0, order=order)
        for a, b in ((ours.us[0], truth.us[0]), (ours.vs[0], truth.vs[0]), (ours.sigmas, truth.sigmas)):
            torch.testing.assert_close(a.cpu(), b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weight_reaches_its_own_layer_only(target, bad):
    weights, us, vs = make([(5, 40), (6, 7)], torch.float32, target)
    weights[0][1, 2] = bad
    out = functional.spectral_norm(weights, us, vs)
    assert not out.weights[0].isfinite().any()
    assert not out.sigmas[0].isfinite()
    assert out.weights[1].isfinite().all()
    assert out.sigmas[1].isfinite()


# --- derivatives ---


@pytest.mark.parametrize("order", ORDERS)
def test_both_orders_equal_torchs_in_training(target, order):
    inputs = make([(3, 4), (6, 5)], torch.float64, target)

    def derivatives(compute):
        weights = [w.detach().requires_grad_() for w in inputs[0]]
        normalized, sigmas = compute(weights)
        loss = sum(w.pow(3).sum() for w in normalized) + sum(s.sin() for s in sigmas)
        first = torch.autograd.grad(loss, weights, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), weights, create_graph=True)
        third = torch.autograd.grad(sum(g.pow(2).sum() for g in second), weights)
        return [*first, *second, *third]

    def ours(weights):
        out = functional.spectral_norm(weights, *inputs[1:], order=order)
        return out.weights, list(out.sigmas)

    def torchs(weights):
        fixed = plain([w.detach() for w in weights], *inputs[1:], order=order)
        out = plain(weights, [f[1] for f in fixed], [f[2] for f in fixed], training=False)
        return [o[0] for o in out], [o[3] for o in out]

    for a, b in zip(derivatives(ours), derivatives(torchs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_gradient_only_where_it_is_asked_for(target):
    weights, us, vs = make([(3, 4), (6, 5), (2, 2)], torch.float64, target)
    weights[0].requires_grad_()
    weights[2].requires_grad_()
    out = functional.spectral_norm(weights, us, vs)
    assert out.weights[0].requires_grad
    assert not out.weights[1].requires_grad  # frozen
    assert not any(t.requires_grad for t in (*out.us, *out.vs))
    out.weights[0].sum().backward()
    assert weights[0].grad is not None
    assert weights[1].grad is None
    assert weights[2].grad is None  # nothing depends on it


def test_gradient_of_sigma_alone(target):
    weights, us, vs = make([(3, 4), (6, 5)], torch.float64, target)
    weights = [w.requires_grad_() for w in weights]
    out = functional.spectral_norm(weights, us, vs)
    for grad, u, v in zip(torch.autograd.grad(out.sigmas.sum(), weights), out.us, out.vs, strict=True):
        torch.testing.assert_close(grad, torch.outer(u, v))


def test_sparse_gradient(target):
    weights, us, vs = make([(6, 5)], torch.float64, target)
    weights[0].requires_grad_()
    index = torch.tensor([1, 1, 4], device=target)
    gradients = []
    for sparse in (True, False):
        weight = functional.spectral_norm(weights, us, vs).weights[0]
        rows = torch.nn.functional.embedding(index, weight, sparse=sparse)
        gradients.append(torch.autograd.grad(rows.pow(3).sum(), weights)[0])
    torch.testing.assert_close(*gradients)


def test_two_forwards_before_one_backward(target):
    weights, us, vs = make([(6, 5)], torch.float64, target)
    weights = [w.requires_grad_() for w in weights]
    first = functional.spectral_norm(weights, us, vs)
    second = functional.spectral_norm(weights, first.us, first.vs)
    together = torch.autograd.grad(first.weights[0].pow(3).sum() - second.weights[0].pow(2).sum(), weights)[0]
    apart = torch.autograd.grad(functional.spectral_norm(weights, us, vs).weights[0].pow(3).sum(), weights)[0]
    apart = (
        apart
        - torch.autograd.grad(functional.spectral_norm(weights, first.us, first.vs).weights[0].pow(2).sum(), weights)[0]
    )
    torch.testing.assert_close(together, apart)


def test_weight_changed_before_backward_is_an_error():
    weights, us, vs = make([(6, 5)])
    weights[0].requires_grad_()
    out = functional.spectral_norm(weights, us, vs)
    with torch.no_grad():
        weights[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.weights[0].sum().backward()


# --- the ways torch calls an op ---


def test_compiled_u_and_v_carry_no_gradient(target):
    weights, us, vs = make([(3, 4)], torch.float64, target)
    weights[0].requires_grad_()
    compiled = torch.compile(lambda w: functional.spectral_norm([w], us, vs), fullgraph=True, backend="aot_eager")
    out = compiled(weights[0])
    assert not out.us[0].requires_grad
    assert not out.vs[0].requires_grad
    assert out.weights[0].requires_grad


# --- bad input ---


def bad_inputs():
    def case(message, error=ValueError, weights=None, us=None, vs=None, **options):
        good = make([(3, 4), (5, 6)])
        lists = [given if given is not None else usual for given, usual in zip((weights, us, vs), good, strict=True)]
        return pytest.param(lists, options, error, message, id=message[:40])

    (w0, w1), (u0, u1), (v0, v1) = make([(3, 4), (5, 6)])
    yield case("weights must be a list of tensors, got torch.float64", TypeError, weights=w0)
    yield case("weights must hold at least one tensor, got an empty list", weights=[], us=[], vs=[])
    yield case(r"us\[1\] must be a tensor, got int 3", TypeError, us=[u0, 3])
    yield case("lists of one length, got: weights has 1, us has 2", weights=[w0])
    yield case(
        r"weights\[0\] must be \[m, ...\] with two or more sizes >= 1, got torch.float64 \[3\]", weights=[u0, w1]
    )
    yield case(r"weights\[1\] must be .* got torch.float64 \[0, 6\]", weights=[w0, w1[:0]])
    yield case(
        r"us\[0\] and vs\[0\] must be \[3\] and \[4\] for weights\[0\] \[3, 4\], got \[5\] and \[4\]", us=[u1, u1]
    )
    yield case(
        r"weights\[1\] must have the dtype of weights\[0\], torch.float64, got torch.float32",
        TypeError,
        weights=[w0, w1.float()],
    )
    yield case(r"vs\[0\] must have the dtype of weights\[0\]", TypeError, vs=[v0.float(), v1])
    yield case(r"weights\[1\] must be on the device of weights\[0\], cpu, got .* on meta", weights=[w0, w1.to("meta")])
    yield case(
        r"weights\[0\].dtype must be one of torch.float64, .*, got torch.complex64",
        TypeError,
        weights=[w0.to(torch.complex64), w1],
    )
    yield case("out_dtype must be one of", TypeError, out_dtype=torch.int32)
    yield case("n_power_iterations must be an integer >= 1, got 0", n_power_iterations=0)
    yield case("n_power_iterations must be an integer >= 1, got 1.5", n_power_iterations=1.5)
    yield case("eps must be finite, got nan", eps=float("nan"))
    yield case("eps must be finite, got inf", eps=float("inf"))
    yield case("eps must be 0 or more, got -1", eps=-1.0)
    yield case("order must be one of u_first, v_first, got str 'first'", order="first")


@pytest.mark.parametrize(("lists", "options", "error", "message"), list(bad_inputs()))
def test_bad_input(lists, options, error, message):
    with pytest.raises(error, match=message):
        functional.spectral_norm(*lists, **options)


def test_inputs_are_not_changed(target):
    inputs = make([(3, 4)], torch.float32, target)
    before = [[t.clone() for t in ts] for ts in inputs]
    functional.spectral_norm(*inputs)
    assert all(torch.equal(a, b) for x, y in zip(inputs, before, strict=True) for a, b in zip(x, y, strict=True))


def test_reference_imports_nothing_of_ours():
    code = (
        "import sys, importlib.util as util; spec = util.spec_from_file_location('reference', sys.argv[1]);"
        "spec.loader.exec_module(util.module_from_spec(spec)); assert 'fastgan' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, reference.__file__], check=True)
