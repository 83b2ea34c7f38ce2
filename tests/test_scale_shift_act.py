"""Scale, shift, activation, and normalizations: every backend against float64, torch and the contract of an op."""

from itertools import product

import pytest
import torch
from channels import EMPTY, NUMBERS, OPS, SHAPES, double, gradients, inputs, plain_scale_shift, terms, written_out
from samples import (
    DTYPES,
    LAYOUTS,
    assert_as_exact,
    assert_same_bits_from_any_number_of_threads,
    computed_once,
    draw,
    layouts,
    without_kinks,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan import backends, functional
from fastgan.ops import norm_act as norm_op
from fastgan.reference.activations import FACTS

each = pytest.mark.parametrize("op", OPS)
KEPT = ["channels_last"]


def normalizable(op, shape):
    """Whether there is more than one number to take statistics of, and more than two of which only the sign counts."""
    count = torch.Size(shape).numel() // shape[1] // (shape[0] if op == "instance_norm" else 1)
    return op == "scale_shift_act" or count > 2


@pytest.mark.exact
@each
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_exact_as_torch(target, dtype, op):
    ours, plain = OPS[op]
    for i, shape in enumerate(SHAPES):
        if not normalizable(op, shape):
            continue
        for last in (False, True) if len(shape) == 4 else (False,):
            arguments = inputs(shape, list(NUMBERS)[i % len(NUMBERS)], dtype, target)
            dy = draw(shape, dtype, target, 5)
            if last:
                arguments[0] = arguments[0].to(memory_format=torch.channels_last)
            exact = double(arguments)
            kinks = computed_once(plain, *exact, act="linear"), computed_once(terms, op, exact, dy.double().cpu())[0]
            dy = without_kinks(dy, kinks[0].abs(), kinks[1])
            results = gradients(ours, arguments, dy)
            # torch multiplies halves by halves
            halves = [None if t is None else t.to(dtype) for t in arguments]
            torchs = [t.to(r.dtype) for t, r in zip(computed_once(gradients, plain, halves, dy), results, strict=True)]
            truths = computed_once(gradients, plain, exact, dy.double().cpu())
            assert results[0].dtype == dtype
            added = computed_once(terms, op, exact, dy.double().cpu() * (truths[0] > 0))
            for got, theirs, truth, of in zip(results, torchs, truths, added, strict=True):
                assert_as_exact(got, theirs, truth, of, dy.numel())


@pytest.mark.exact
@each
@pytest.mark.parametrize("act", FACTS)
def test_every_activation(target, act, op):
    for shape in [(3, 5, 6, 7), (6, 3, 1, 5)]:
        for last in (False, True):
            arguments = inputs(shape, "mixed", torch.float64, target)
            if last:
                arguments[0] = arguments[0].to(memory_format=torch.channels_last)
            dy = draw(shape, torch.float64, target, 5)
            options = {"act": act, "alpha": 0.3}
            for got, truth in zip(
                gradients(OPS[op].ours, arguments, dy, **options),
                computed_once(gradients, OPS[op].plain, double(arguments), dy.double().cpu(), **options),
                strict=True,
            ):
                torch.testing.assert_close(got.cpu(), truth, rtol=1e-10, atol=1e-10)


@each
@pytest.mark.parametrize("values", NUMBERS)
def test_values_per_channel_or_per_sample_or_none(target, values, op):
    arguments = inputs((4, 6, 5, 3), values, device=target)
    dy = draw((4, 6, 5, 3), device=target, seed=5)
    for got, truth in zip(
        gradients(OPS[op].ours, arguments, dy), gradients(OPS[op].plain, double(arguments), dy.cpu()), strict=True
    ):
        torch.testing.assert_close(got.cpu(), truth, rtol=1e-10, atol=1e-10)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(target, name, dtype, op):
    x, *values = inputs((5, 4, 6, 8), "mixed", dtype, target)
    laid_out = layouts(x)[name]
    exact = double([laid_out, *values])
    y = OPS[op].ours(laid_out, *values)
    if name in KEPT:
        assert y.stride() == laid_out.stride()
    for dy in (torch.ones_like(y), y.new_ones(()).expand_as(y), draw(y.shape, dtype, target).contiguous().mT.mT):
        truths = gradients(OPS[op].plain, exact, dy.double().cpu(), act="linear")
        added = terms(op, exact, dy.double().cpu())
        results = gradients(OPS[op].ours, [laid_out, *values], dy, act="linear")
        for got, truth, of in zip(results, truths, added, strict=True):
            assert_as_exact(got, truth.to(got), truth, of, dy.numel())


@each
@pytest.mark.parametrize("shape", [(3, 1, 5, 6), (3, 4, 1, 6), (3, 4, 5, 1), (1, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 2, 1), (0, 1, 3, 2)], ids=str)
def test_layouts_with_a_dimension_of_size_1(target, order, shape, op):
    """Its stride, which a view may change, decides nothing: neither the result, nor its layout or the gradient's."""
    x, *values = inputs(shape, "C", torch.float64, target)
    x = x.permute(order).contiguous().permute([order.index(dim) for dim in range(4)])
    dy = draw(shape, torch.float64, target, 5)
    truths = gradients(OPS[op].plain, double([x, *values]), dy.cpu())
    with FakeTensorMode() as mode:
        fake = OPS[op].ours(*(mode.from_tensor(t) for t in (x, *values)))
    results = gradients(OPS[op].ours, [x, *values], dy)
    for got, truth in zip(results, truths, strict=True):
        torch.testing.assert_close(got.cpu(), truth, rtol=1e-10, atol=1e-10)
    for y in (OPS[op].ours(x, *values), *results[:2]):
        assert [y.stride(d) for d in range(4) if shape[d] > 1] == [fake.stride(d) for d in range(4) if shape[d] > 1]


@each
@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(target, shape, op):
    arguments = inputs(shape, "C", torch.float32, target)
    y, *grads = gradients(OPS[op].ours, arguments, draw(shape, torch.float32, target))
    assert y.shape == shape
    for got, argument in zip(grads, arguments, strict=True):
        assert torch.equal(got, torch.zeros_like(argument))


@each
@pytest.mark.parametrize("values", ["C", "NC", "none"])
def test_gradcheck(target, values, op):
    for act in ("lrelu", "tanh"):
        arguments = inputs((3, 2, 3), values, device=target)
        given = [t.requires_grad_() for t in arguments if t is not None]

        def compute(*tensors, act=act, arguments=arguments):
            tensors = iter(tensors)
            return OPS[op].ours(*(None if t is None else next(tensors) for t in arguments), act=act)

        assert torch.autograd.gradcheck(compute, given)
        assert torch.autograd.gradgradcheck(compute, given)


@each
def test_third_order(target, op):
    def plain(*arguments, act):
        if op == "scale_shift_act":
            return plain_scale_shift(*arguments, act)
        return written_out(*arguments, (0, 2) if op == "batch_norm" else (2,), act)

    orders = []
    for function in (OPS[op].ours, plain):
        x, *values = (t.requires_grad_() for t in inputs((4, 3, 3), device=target))
        value = function(x, *values, act="tanh").sin().sum()
        for _ in range(3):
            grads = torch.autograd.grad(value, (x, *values), create_graph=True)
            value = sum(g.square().sum() for g in grads)
        orders.append(grads)
    for got, expected in zip(*orders, strict=True):
        torch.testing.assert_close(got, expected)


class Watched:
    """A backend that notes what of a backward is asked for."""

    def __init__(self, backend):
        self.backend, self.asked = backend, []

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def backward(self, *arguments):
        self.asked.append(arguments[-1])
        return self.backend.backward(*arguments)


@pytest.fixture
def watched(target, monkeypatch):
    pick = backends.pick
    backend = Watched(pick("scale_shift_act", torch.empty(0, device=target)))
    monkeypatch.setattr(backends, "pick", lambda op, x: backend if op == "scale_shift_act" else pick(op, x))
    return backend


@pytest.fixture
def in_two_passes(monkeypatch):
    """Normalization that calls `scale_shift_act`, on a backend that would have it whole too."""
    monkeypatch.setattr(norm_op, "_whole", lambda x, name: None)


@pytest.mark.parametrize("through_a_node", [False, True])
def test_what_nobody_asked_for_is_not_computed(target, watched, through_a_node):
    """Under `autograd.grad(y, x)` an autograd.Function is told that every input needs a gradient."""
    leaves = [t.requires_grad_() for t in inputs((3, 4, 5), "NC", device=target)]
    y = functional.scale_shift_act(*([t * 1 for t in leaves] if through_a_node else leaves))
    dy = torch.ones_like(y)
    for wanted, expected in (((0,), (True, False)), ((1,), (False, True)), ((0, 2), (True, True))):
        torch.autograd.grad(y, [leaves[i] for i in wanted], dy, retain_graph=True)
        y.backward(dy, retain_graph=True, inputs=[leaves[i] for i in wanted])
        assert watched.asked == [expected] * 2
        watched.asked.clear()
    y.backward(dy)
    assert watched.asked == [(True, True)]


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_normalization_without_dx_is_one_pass(target, watched, in_two_passes, norm):
    x, weight, bias = (t.requires_grad_() for t in inputs((3, 4, 5), "C", device=target))
    y = functional.norm_act(x, weight, bias, norm=norm)
    torch.autograd.grad(y.sum(), (weight, bias), retain_graph=True)
    assert watched.asked == [(False, True)]
    torch.autograd.grad(y.sum(), x)
    assert watched.asked[1:] == [(False, True), (True, False)]


@each
def test_same_bits_from_any_number_of_threads(op):
    # Of mixed values the last gradient is torch's own sum over samples, which is not ours.
    for last, (values, ours) in product((False, True), (("mixed", 3), ("C", 4))):
        x, *others = inputs((3, 40, 31, 33), values, torch.float32)
        x = x.to(memory_format=torch.channels_last) if last else x
        assert_same_bits_from_any_number_of_threads(
            lambda tensors=(x, *others), n=ours: gradients(OPS[op].ours, tensors, torch.ones_like(tensors[0]))[:n]
        )


@each
def test_non_finite_number_stays_in_its_channel(target, op):
    x, *values = inputs((2, 3, 50), "C", torch.float32, target)
    x[0, 1, 7] = torch.nan
    y, dx, *sums = gradients(OPS[op].ours, [x, *values], torch.ones_like(x))
    assert y[0, 1, 7].isnan()
    assert all(t[:, [0, 2]].isfinite().all() for t in (y, dx))
    assert all(t[[0, 2]].isfinite().all() for t in sums)


# --- the ways torch calls an op ---


@each
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_opcheck(target, dtype, layout, op):
    x, scale, shift = inputs((3, 4, 5, 2), "mixed", dtype, target)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    exact = [None if t is None else t.to(torch.promote_types(dtype, torch.float32)) for t in (scale, shift)]
    tensors = [t.requires_grad_() for t in (x, *exact)]
    if op == "scale_shift_act":
        arguments = (*tensors, None, "tanh", 0.0)
        torch.library.opcheck(torch.ops.fastgan.scale_shift_act.default, arguments)
        backward = torch.ops.fastgan.scale_shift_act_backward.default
        torch.library.opcheck(backward, (x.detach(), *(t.detach() for t in tensors), None, "relu", 0.0, True, True))
    else:
        arguments = (*tensors, op == "instance_norm", 1e-5, "tanh", 0.0)
        tests = ("test_schema", "test_faketensor", "test_autograd_registration")
        torch.library.opcheck(torch.ops.fastgan.norm_act.default, arguments, test_utils=tests)


@each
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile(target, compiler, op):
    arguments = inputs((3, 4, 5, 2), "mixed", device=target)
    compiled = torch.compile(OPS[op].ours, fullgraph=True, backend=compiler)
    dy = draw((3, 4, 5, 2), device=target, seed=5)
    for a, b in zip(gradients(compiled, arguments, dy), gradients(OPS[op].ours, arguments, dy), strict=True):
        torch.testing.assert_close(a, b)


@each
def test_export_and_decompositions(target, op):
    from fastgan.ops.op import decompositions

    class Module(torch.nn.Module):
        def forward(self, *arguments):
            return OPS[op].ours(*arguments)

    arguments = inputs((3, 4, 5), "mixed", device=target)
    program = torch.export.export(Module(), tuple(arguments))
    torch.testing.assert_close(program.module()(*arguments), Module()(*arguments))
    plain = program.run_decompositions(decompositions())
    assert not [node for node in plain.graph.nodes if "fastgan" in str(node.target)]
    torch.testing.assert_close(plain.module()(*arguments), Module()(*arguments))


def curve(op):
    return lambda *arguments: OPS[op].ours(*arguments, act="tanh").sin().sum()


@each
def test_torch_func(target, op):
    arguments = inputs((3, 4, 2), "mixed", device=target)
    wanted = [t.clone().requires_grad_() for t in arguments]
    first = torch.autograd.grad(curve(op)(*wanted), wanted, create_graph=True)
    for a, b in zip(torch.func.grad(curve(op), (0, 1, 2))(*arguments), first, strict=True):
        torch.testing.assert_close(a, b)

    def squares(*arguments):
        return sum(g.square().sum() for g in torch.func.grad(curve(op), (0, 1, 2))(*arguments))

    second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
    for a, b in zip(torch.func.grad(squares, (0, 1, 2))(*arguments), second, strict=True):
        torch.testing.assert_close(a, b)


@each
def test_vmap(target, op):
    x, shared = draw((5, 3, 4, 6), device=target), draw((4,), device=target, seed=8)
    own = draw((5, 3, 4), device=target, seed=7)
    y = torch.func.vmap(OPS[op].ours, in_dims=(0, 0, None))(x, own, shared)
    torch.testing.assert_close(y[2], OPS[op].ours(x[2], own[2], shared))
    y = torch.func.vmap(OPS[op].ours, in_dims=(2, None, None))(x.movedim(0, 2), own[0], None)
    torch.testing.assert_close(y[3], OPS[op].ours(x[3], own[0], None))
    each_one = torch.func.vmap(torch.func.grad(curve(op)), in_dims=(0, 0, None))(x, own, shared)
    torch.testing.assert_close(each_one[1], torch.func.grad(curve(op))(x[1], own[1], shared))


@each
@pytest.mark.parametrize("compiled", [False, True])
def test_forward_mode_raises(compiled, op):
    arguments = tuple(inputs((3, 4, 5)))

    def jvp(*arguments):
        return torch.func.jvp(OPS[op].ours, arguments, arguments)

    with pytest.raises(NotImplementedError, match="forward-mode"):
        (torch.compile(jvp, backend="aot_eager") if compiled else jvp)(*arguments)


@each
def test_autocast_changes_nothing(target, op):
    arguments = inputs((3, 4, 40), "C", torch.bfloat16, target)
    with torch.autocast(target.type, dtype=torch.bfloat16):
        mixed = OPS[op].ours(*arguments)
    assert torch.equal(mixed, OPS[op].ours(*arguments))


# --- bad input ---

X, C = torch.ones(3, 4, 5), torch.ones(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.scale_shift_act([1.0], C, C), TypeError, "x must be a tensor, got list"),
        (lambda: functional.scale_shift_act(X.int(), C, C), TypeError, "x.dtype must be one of"),
        (lambda: functional.scale_shift_act(X[0, 0], C, C), ValueError, r"x must be \[N, C, ...\] with two or more"),
        (lambda: functional.scale_shift_act(X, C[:3], C), ValueError, r"scale must be \[4\], .* or \[3, 4\], .* got"),
        (lambda: functional.scale_shift_act(X, C, 1.0), TypeError, "shift must be a tensor, got float"),
        (lambda: functional.scale_shift_act(X, C, C.to("meta")), ValueError, "shift must be on the device of x"),
        (lambda: functional.scale_shift_act(X, C, C, "sine"), ValueError, "act must be one of linear, .* str 'sine'"),
        (lambda: functional.scale_shift_act(X, C, C, "lrelu", "x"), TypeError, "alpha must be a number, got"),
        (
            lambda: functional.norm_act(X, norm="layer"),
            ValueError,
            "norm must be one of batch, instance, got str 'layer'",
        ),
        (lambda: functional.norm_act(X, training=False), ValueError, "running_mean must be given where training is"),
        (lambda: functional.norm_act(X, running_mean=X[..., 0]), ValueError, r"running_mean must be \[4\], one number"),
        (lambda: functional.norm_act(X[:1, :, :1]), ValueError, "x must have more than one value per channel in train"),
        (lambda: functional.norm_act(X[..., :1], norm="instance"), ValueError, "x must have more than one value per"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_dead_relu_stops_an_infinite_gradient(target, channels_last):
    """As torch's does."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.linspace(-1, 1, 48).view(2, 4, 2, 3).to(target).contiguous(memory_format=layout).requires_grad_()
    dy = torch.where(x > 0, 1.0, torch.inf)
    for y in (functional.scale_shift_act(x, None, None, "relu"), functional.pixel_shuffle_act(x, None, 1, "relu")):
        (dx,) = torch.autograd.grad(y, x, dy)
        assert torch.equal(dx, (x > 0).float())


@pytest.mark.parametrize("act", ["elu", "selu"])
def test_second_derivative_at_0_is_torchs(act):
    x = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(functional.scale_shift_act(x, None, None, act).sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    assert not ddx.any()
