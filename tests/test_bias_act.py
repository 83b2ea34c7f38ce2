"""bias_act and sums over channels: every backend against float64, torch and the contract of an op."""

import pytest
import torch
from samples import (
    DTYPES,
    KEPT,
    LAYOUTS,
    assert_as_exact,
    assert_same_bits_from_any_number_of_threads,
    computed_once,
    draw,
    layouts,
    majorant,
    without_kinks,
)
from torch.nn import functional as F

from fastgan import decompositions, functional, nn
from fastgan.ops import bias_act as op
from fastgan.ops.sum_channels import expand_channels, sum_channels
from fastgan.reference.activations import FACTS

PLAIN = {
    "linear": lambda z, alpha: z,
    "relu": lambda z, alpha: F.relu(z),
    "lrelu": lambda z, alpha: F.leaky_relu(z, alpha),
    "tanh": lambda z, alpha: torch.tanh(z),
    "sigmoid": lambda z, alpha: torch.sigmoid(z),
    "elu": lambda z, alpha: F.elu(z),
    "selu": lambda z, alpha: F.selu(z),
    "softplus": lambda z, alpha: F.softplus(z),
    "swish": lambda z, alpha: F.silu(z),
    "gelu": lambda z, alpha: F.gelu(z),
}
ACTS = list(PLAIN)
CURVED = [act for act, facts in FACTS.items() if not facts.piecewise_linear]
each = pytest.mark.parametrize("act", ACTS)
# Of packets and not; a channel longer than a chunk, and than the threads of a block reach; a
# long row of short channels; one dimension; empty.
SHAPES = [(5,), (7, 1), (70, 3), (300, 24), (9, 2, 3, 3), (5, 16, 7), (3, 70, 4, 4), (2, 3, 37, 37), (2, 8, 48, 48)]
SHAPES += [(1, 2, 9000), (2, 9000, 2), (0, 3), (4, 0), (3, 2, 0)]
# alpha, gain, clamp: the defaults; with a clamp; derivatives from x.
OPTIONS = [{}, {"gain": 1.5, "clamp": 0.7}, {"alpha": -0.4, "gain": -0.3, "clamp": 0.2}]


def plain(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    """The operations as codebases write them."""
    z = x if b is None else x + b.to(x.dtype).view([-1 if i == dim else 1 for i in range(x.ndim)])
    facts = FACTS[act]
    y = PLAIN[act](z, facts.alpha if alpha is None else alpha) * (facts.gain if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def terms(x, b, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    """What y, and gradients, would be if no two terms that are added had different signs."""
    gain = FACTS[act].gain if gain is None else gain
    return abs(gain) * majorant(x.abs() + b.abs().view([-1 if i == dim else 1 for i in range(x.ndim)]))


def inputs(shape, dtype=torch.float64, device="cpu"):
    dim = min(1, len(shape) - 1)
    return draw(shape, dtype, device), draw(shape[dim : dim + 1], dtype, device, 1), dim


def gradients(function, x, b, dy, **options):
    x, b = x.detach().requires_grad_(), b.detach().requires_grad_()
    return torch.autograd.grad(function(x, b, **options), (x, b), dy)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each
def test_as_exact_as_torch(target, act, dtype):
    for i, shape in enumerate(SHAPES):
        x, b, dim = inputs(shape, dtype, target)
        options = {"dim": dim, "act": act} | OPTIONS[i % len(OPTIONS)]
        exact = x.double().cpu(), b.double().cpu()
        y = functional.bias_act(x, b, **options)
        assert y.dtype == dtype
        known = (
            computed_once(plain, x, b, **options),
            computed_once(plain, *exact, **options),
            computed_once(terms, *exact, **options),
        )
        assert_as_exact(y, *known)
        dy = draw(shape, dtype, target, 5)
        if clamp := options.get("clamp"):
            y = computed_once(plain, *exact, **options | {"clamp": None})
            dy = without_kinks(dy, (y.abs() - clamp).abs(), clamp)
        exact_dy = dy.double().cpu()
        results = (
            gradients(functional.bias_act, x, b, dy, **options),
            computed_once(gradients, plain, x, b, dy, **options),
        )
        truths = computed_once(gradients, plain, *exact, exact_dy, **options)
        added = computed_once(gradients, terms, *exact, exact_dy.abs(), **options)
        # A slope is that of a value that was rounded to be kept.
        for got, theirs, truth, of in zip(*results, truths, added, strict=True):
            assert_as_exact(got, theirs, truth, of, dy.numel(), computed_in=dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "clamp", "from x"])
@each
def test_second_and_third_derivatives_are_torchs(target, act, options):
    x, b, _ = inputs((3, 4, 2), device=target)
    dy = draw((3, 4, 2), device=target, seed=5)

    def derivatives(function):
        inputs = [t.clone().requires_grad_() for t in (x, b, dy)]
        found = [function(*inputs[:2], act=act, **options)]
        for order in range(3):
            if not found[-1].requires_grad:  # from None, where torch has zeros
                found.append(torch.zeros_like(found[-1]))
                continue
            seed = inputs[2] if order == 0 else torch.ones_like(found[-1])
            dx, db = torch.autograd.grad(found[-1], inputs[:2], seed, create_graph=True, materialize_grads=True)
            found.append(dx.square() + db.square()[:, None])
        return [t.detach() for t in found]

    for got, expected in zip(derivatives(functional.bias_act), derivatives(plain), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "clamp", "from x"])
@each
def test_keeping_the_input(target, act, options):
    """The same derivatives, while y may be changed in place."""
    results = []
    for change, keep in ((False, "output"), (True, "input")):
        x, b, _ = inputs((3, 4, 2), device=target)
        x, b = x.requires_grad_(), b.requires_grad_()
        y = functional.bias_act(x, b, act=act, **options, keep=keep)
        value = y.detach().clone()
        total = (y * value).sum()
        if change:
            total = (y.clone() * value).sum()
            y.mul_(0.3)
        dx, db = torch.autograd.grad(total, (x, b), create_graph=True)
        second = (None, None)
        if dx.requires_grad:
            second = torch.autograd.grad(dx.square().sum() + db.square().sum(), (x, b), materialize_grads=True)
        results.append([value, dx.detach(), db.detach(), *(None if t is None else t.detach() for t in second)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "clamp", "from x"])
@each
def test_gradcheck(target, act, options):
    x, b = draw((2, 3, 2), device=target).requires_grad_(), draw((3,), device=target, seed=1).requires_grad_()

    def function(x, b):
        return functional.bias_act(x, b, act=act, **options)

    assert torch.autograd.gradcheck(function, (x, b))
    if act in CURVED:
        assert torch.autograd.gradgradcheck(function, (x, b))
    dy = torch.ones_like(x).requires_grad_()
    spec = op.make_spec(1, act, options.get("alpha"), options.get("gain"), options.get("clamp"))

    def gradient(dy, x, b):
        return op.gradient(dy, spec.saved(x, op.activated(x, b, spec)), b, spec)

    # A piecewise linear one is linear in dy, to which the others are constants.
    constants = (t if act in CURVED else t.detach() for t in (x, b))
    assert torch.autograd.gradcheck(gradient, (dy, *constants))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("act", ["lrelu", "swish", "tanh"])
def test_layouts(target, act, name, dtype):
    x, b, _ = inputs((5, 4, 6, 8), dtype, target)
    laid_out = layouts(x)[name]
    if name == "misaligned":
        assert laid_out.data_ptr() % 16
    for dim in range(4):
        b = draw(x.shape[dim : dim + 1], dtype, target, 1)
        y = functional.bias_act(laid_out, b, dim, act)
        exact = laid_out.double().cpu(), b.double().cpu()
        assert_as_exact(y, plain(laid_out, b, dim, act), plain(*exact, dim, act), terms(*exact, dim, act))
        if name in KEPT:
            assert y.stride() == laid_out.stride()
        for dy in (torch.ones_like(y), y.new_ones(()).expand_as(y), y.detach().transpose(2, 3).contiguous().mT):
            results = [gradients(f, laid_out, b, dy, dim=dim, act=act) for f in (functional.bias_act, plain)]
            truths = gradients(plain, *exact, dy.double().cpu(), dim=dim, act=act)
            added = gradients(terms, *exact, dy.double().cpu().abs(), dim=dim, act=act)
            for got, theirs, truth, of in zip(*results, truths, added, strict=True):
                assert_as_exact(got, theirs, truth, of, dy.numel(), computed_in=dtype)


@each
def test_gradient_only_where_it_is_asked_for(target, act, monkeypatch):
    x, b, _ = inputs((3, 4, 2), device=target)
    sums = []
    monkeypatch.setattr(sum_channels, "run", lambda x, dim: sums.append(dim) or x.sum((0, 2)))
    for with_b in (False, True):
        x.grad = b.grad = None
        x.requires_grad_(not with_b)
        b.requires_grad_(with_b)
        functional.bias_act(x, b, act=act).sum().backward()
        assert (x.grad is None, b.grad is None) == (with_b, not with_b)
    assert len(sums) == 1
    x.requires_grad_()
    torch.autograd.grad(functional.bias_act(x, b, act=act).sum(), x)
    assert len(sums) == 1


@each
def test_what_is_kept(act):
    x, b, _ = inputs((3, 4, 2))
    x.requires_grad_()
    b.requires_grad_()
    y = functional.bias_act(x, b, act=act)
    kept = [t for t in y.grad_fn.saved_tensors if t is not None]
    addresses = [t.data_ptr() for t in kept]
    if act == "linear":
        assert not kept
    elif act in ("swish", "gelu"):
        assert addresses[0] == x.data_ptr()
        assert addresses[-1] == b.data_ptr()
    else:
        assert addresses == [y.data_ptr()]


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize("alpha", [None, -0.3])
def test_second_derivative_of_piecewise_linear_is_none(target, act, alpha):
    x, b, _ = inputs((3, 4), device=target)
    dy = torch.ones_like(x).requires_grad_()
    x.requires_grad_()
    b.requires_grad_()
    (dx,) = torch.autograd.grad(functional.bias_act(x, b, act=act, alpha=alpha, clamp=0.5), x, dy, create_graph=True)
    found = torch.autograd.grad(dx.sum(), (dy, x, b), allow_unused=True)
    assert [g is None for g in found] == [False, True, True]
    (dx,) = torch.autograd.grad(functional.bias_act(x, b, act=act, alpha=alpha), x, dy.detach(), create_graph=True)
    assert not dx.requires_grad


def test_kinks_are_torchs(target):
    x = torch.tensor([[0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf]], device=target)
    for act in ("relu", "lrelu", "elu", "selu", "softplus"):
        for dtype in DTYPES:
            dy = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], dtype=dtype, device=target)
            ours, theirs = (
                gradients(f, x.to(dtype), torch.zeros(6, dtype=dtype, device=target), dy, act=act, gain=1)[0]
                for f in (functional.bias_act, plain)
            )
            # The slope of elu and selu far below 0 is a difference of y, rounded, and a constant.
            atol = 16 * torch.finfo(dtype).eps
            torch.testing.assert_close(ours, theirs, rtol=0.02, atol=atol, equal_nan=True)


def test_non_finite_numbers_stay_where_they_are(target):
    for act in ACTS:
        x = draw((2, 3, 500), torch.float32, target)
        x[1, 2, 7] = torch.nan
        y = functional.bias_act(x, torch.zeros(3, device=target), act=act, clamp=2.0)
        assert y.isnan().sum() == 1
        assert y[1, 2, 7].isnan()
    x = torch.tensor([[1.0, -1.0, 3.0]], device=target).requires_grad_()
    dy = torch.tensor([[1.0, torch.inf, torch.inf]], device=target)
    (dx,) = torch.autograd.grad(functional.bias_act(x, act="relu", gain=1, clamp=2.0), x, dy)
    assert dx.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_clamped_number_has_no_slope_though_the_clamp_is_rounded(target, dtype):
    for clamp in (0.3, 0.7, 1 / 3, 5.1):
        x = torch.full((4, 2), 100.0, dtype=dtype, device=target).requires_grad_()
        y = functional.bias_act(x, act="lrelu", clamp=clamp)
        assert torch.equal(y, torch.full_like(y, clamp))
        assert not torch.autograd.grad(y.sum(), x)[0].any()


def test_bias_of_another_dtype(target):
    x, b, _ = inputs((6, 4, 3), torch.bfloat16, target)
    exact = b.float() + 1e-3
    ours = functional.bias_act(x, exact, act="lrelu")
    torch.testing.assert_close(ours, plain(x.float(), exact, act="lrelu").bfloat16())
    assert [g.dtype for g in gradients(functional.bias_act, x, exact, x)] == [torch.bfloat16, torch.float32]
    assert gradients(functional.bias_act, x.float(), b, x.float())[1].dtype == torch.bfloat16


@each
def test_same_bits_from_any_number_of_threads(act):
    for shape in ((3, 7, 71, 71), (70001, 5), (40, 64, 3, 3)):
        x, b, _ = inputs(shape, torch.float32)
        assert_same_bits_from_any_number_of_threads(
            lambda x=x, b=b: [functional.bias_act(x, b, act=act), *gradients(functional.bias_act, x, b, x, act=act)]
        )


# --- sums over channels ---


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sum_channels(target, dtype):
    for shape in [*SHAPES, (513, 40), (2000, 8), (300, 3, 5), (64, 130, 2, 2), (20, 2, 3000)]:
        x = draw(shape, dtype, target) + 0.1
        for dim in range(len(shape)):
            others = [d for d in range(len(shape)) if d != dim]
            exact = x.double().cpu()
            truth, added = (t.sum(others) if others else t for t in (exact, exact.abs()))
            s = sum_channels(x, dim)
            assert s.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            torchs = x.to(s.dtype).sum(others) if others else x.to(s.dtype)
            assert_as_exact(s, torchs, truth, added, x.numel())


def test_sum_and_expand_are_each_others_derivative(target):
    x, b, _ = inputs((3, 4, 2), device=target)
    x.requires_grad_()
    b.requires_grad_()
    for function, argument in ((lambda x: sum_channels(x, 1).sin(), x), (lambda b: expand_channels(b, x, 1).sin(), b)):
        assert torch.autograd.gradcheck(function, argument)
        assert torch.autograd.gradgradcheck(function, argument)


# --- the ways torch calls an op ---

OPCHECKED = [("linear", None), ("lrelu", 0.5), ("swish", None), ("tanh", 0.5)]


@pytest.mark.parametrize(("act", "clamp"), OPCHECKED)
def test_opcheck(act, clamp):
    x, b, _ = inputs((3, 4, 5, 2))
    if clamp:
        x = x.to(memory_format=torch.channels_last)
    spec = op.make_spec(1, act, None, None, clamp)
    wanted = [t.detach().clone().requires_grad_() for t in (x, b)]
    torch.library.opcheck(torch.ops.fastgan.bias_act.default, (*wanted, *spec))
    torch.library.opcheck(torch.ops.fastgan.sum_channels.default, (wanted[0], 1))
    y = op.activated(x, b, spec)
    saved = spec.saved(x, y)
    arguments = (saved, None if spec.at_value else b, spec.at_value, *spec)
    dy = x.detach().clone().requires_grad_()
    torch.library.opcheck(torch.ops.fastgan.bias_act_gradient.default, (dy, *arguments))
    if saved is not None:
        torch.library.opcheck(torch.ops.fastgan.bias_act_second.default, (x, x, *arguments))


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("act", ["lrelu", "gelu", "tanh"])
def test_compile(compiler, act):
    x, b, _ = inputs((3, 4, 5))
    dy = draw((3, 4, 5), seed=5)
    torch._dynamo.reset()
    compiled = torch.compile(functional.bias_act, fullgraph=True, backend=compiler)
    options = {"act": act, "clamp": 0.8}
    torch.testing.assert_close(compiled(x, b, **options), functional.bias_act(x, b, **options))
    for got, expected in zip(
        gradients(compiled, x, b, dy, **options), gradients(functional.bias_act, x, b, dy, **options), strict=True
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("act", ["lrelu", "gelu", "tanh"])
def test_export_and_decompositions(act):
    x, b, _ = inputs((3, 4, 5))
    module = nn.BiasAct(4, act, clamp=0.8, dtype=torch.float64)
    module.bias.data.copy_(b)
    program = torch.export.export(module, (x,))
    assert "fastgan.bias_act.default" in {str(node.target) for node in program.graph.nodes}
    torch.testing.assert_close(program.module()(x), module(x))
    plain_program = program.run_decompositions(decompositions())
    assert not [node for node in plain_program.graph.nodes if "fastgan" in str(node.target)]
    torch.testing.assert_close(plain_program.module()(x), module(x))


def test_decompositions_are_the_ops():
    x, b, _ = inputs((3, 4, 5))
    table = decompositions()
    for act, clamp in OPCHECKED:
        spec = op.make_spec(1, act, None, None, clamp)
        saved = spec.saved(x, op.activated(x, b, spec))
        arguments = (saved, None if spec.at_value else b, spec.at_value, *spec)
        calls = [("bias_act", (x, b, *spec)), ("bias_act_gradient", (x, *arguments)), ("sum_channels", (x, 1))]
        if saved is not None:
            calls.append(("bias_act_second", (x, b[:, None].expand_as(x), *arguments)))
        for name, inputs_ in calls:
            overload = getattr(torch.ops.fastgan, name).default
            torch.testing.assert_close(table[overload](*inputs_), overload(*inputs_))


@each
def test_torch_func(act):
    x, b, _ = inputs((3, 4))

    def curve(x, b):
        return functional.bias_act(x, b, act=act).sin().sum()

    wanted = [t.clone().requires_grad_() for t in (x, b)]
    first = torch.autograd.grad(curve(*wanted), wanted, create_graph=True)
    for got, expected in zip(torch.func.grad(curve, (0, 1))(x, b), first, strict=True):
        torch.testing.assert_close(got, expected)
    second = torch.autograd.grad(first[0].square().sum(), wanted)
    squares = torch.func.grad(lambda x, b: torch.func.grad(curve)(x, b).square().sum(), (0, 1))(x, b)
    for got, expected in zip(squares, second, strict=True):
        torch.testing.assert_close(got, expected)
    rows = torch.func.vmap(lambda x: functional.bias_act(x, b, 0, act))(x)
    torch.testing.assert_close(rows, functional.bias_act(x, b, 1, act))
    per_sample = torch.func.vmap(torch.func.grad(lambda x: functional.bias_act(x, b, 0, act).sin().sum()))(x)
    torch.testing.assert_close(per_sample, first[0])


@pytest.mark.parametrize("compiled", [False, True])
def test_forward_mode_raises(compiled):
    x, b, _ = inputs((3, 4))

    def jvp(x, b):
        return torch.func.jvp(functional.bias_act, (x, b), (x, b))

    with pytest.raises(NotImplementedError, match="forward-mode"):
        (torch.compile(jvp, backend="aot_eager") if compiled else jvp)(x, b)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        functional.bias_act(torch.autograd.forward_ad.make_dual(x, x), b)


def test_autocast_changes_nothing(target):
    x, b, _ = inputs((3, 40), torch.float32, target)
    with torch.autocast(target.type, dtype=torch.bfloat16):
        mixed = functional.bias_act(x, b, act="lrelu")
    assert torch.equal(mixed, functional.bias_act(x, b, act="lrelu"))


def test_a_mode_sees_one_operation():
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **kwargs or {})

    x, b, _ = inputs((3, 4))
    with Watch():
        functional.bias_act(x, b, act="lrelu")
    assert seen[0] is functional.bias_act


# --- the module ---


def test_module(target):
    module = nn.BiasAct(4, "lrelu", alpha=0.1, gain=2, clamp=3, device=target)
    assert list(module.state_dict()) == ["bias"]
    assert str(module) == "BiasAct(4, act=lrelu, alpha=0.1, gain=2, clamp=3)"
    x = draw((2, 4, 3), torch.float32, target)
    module.bias.data.add_(0.5)
    torch.testing.assert_close(module(x), plain(x, module.bias, 1, "lrelu", 0.1, 2, 3))
    last = nn.BiasAct(3, "relu", dim=-1, bias=False)
    assert not last.state_dict()
    assert str(last) == "BiasAct(3, act=relu, dim=-1, bias=False)"
    torch.testing.assert_close(last(x.cpu()), plain(x.cpu(), act="relu"))


# --- bad input ---

X, B = torch.ones(3, 4), torch.ones(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.bias_act([1.0]), TypeError, "x must be a tensor, got list"),
        (lambda: functional.bias_act(X.int()), TypeError, "x.dtype must be one of .*, got torch.int32"),
        (lambda: functional.bias_act(X, act="silu"), ValueError, "act must be one of linear, .*, got str 'silu'"),
        (lambda: functional.bias_act(X, alpha="0.1"), TypeError, "alpha must be a number, got str '0.1'"),
        (lambda: functional.bias_act(X, gain=torch.ones(1)), TypeError, "gain must be a number, got torch.float32"),
        (lambda: functional.bias_act(X, gain=float("nan")), ValueError, "gain must be finite, got nan"),
        (lambda: functional.bias_act(X, clamp=-1), ValueError, "clamp must be 0 or more, got -1"),
        (lambda: functional.bias_act(X, keep="x"), ValueError, 'keep must be "output" or "input", got \'x\''),
        (lambda: functional.bias_act(X, 1.0), TypeError, "b must be a tensor, got float 1.0"),
        (lambda: functional.bias_act(X, B.int()), TypeError, "b.dtype must be one of"),
        (
            lambda: functional.bias_act(X, B[:2]),
            ValueError,
            r"b must be \[4\], a number for every index of dimension 1",
        ),
        (lambda: functional.bias_act(X, B, 2), ValueError, r"dim must be a dimension of x, \[3, 4\], got int 2"),
        (lambda: functional.bias_act(X, B.to("meta")), ValueError, "b must be on the device of x, cpu, got"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("clamp", [65504.0, 65510.0, 65530.0, 1e5])
def test_a_clamp_beyond_the_dtype(target, clamp):
    x = torch.tensor([[-70000.0, 1.0, 65504.0]]).half().to(target)
    y = functional.bias_act(x, clamp=clamp)
    expected = x.float().clamp(-clamp, clamp).half() if clamp < 65520 else x
    assert torch.equal(y, expected)
