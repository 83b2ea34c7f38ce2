"""bias_act and sums over channels: what only they have; the contract of an op is in contract/."""

import pytest
import torch
from contract.activations import ACTIVATIONS
from samples import DTYPES, draw

from fastgan import functional, nn
from fastgan.ops import bias_act as op
from fastgan.ops.sum_channels import expand_channels, sum_channels
from fastgan.reference.activations import FACTS

ACTS = list(ACTIVATIONS)
each = pytest.mark.parametrize("act", ACTS)
# alpha, gain, clamp: the defaults; with a clamp; derivatives from x.
OPTIONS = [{}, {"gain": 1.5, "clamp": 0.7}, {"alpha": -0.4, "gain": -0.3, "clamp": 0.2}]


def plain(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None):
    """The operations as codebases write them."""
    z = x if b is None else x + b.to(x.dtype).view([-1 if i == dim else 1 for i in range(x.ndim)])
    facts = FACTS[act]
    y = ACTIVATIONS[act](z, facts.alpha if alpha is None else alpha) * (facts.gain if gain is None else gain)
    return y if clamp is None else y.clamp(-clamp, clamp)


def inputs(shape, dtype=torch.float64, device="cpu"):
    dim = min(1, len(shape) - 1)
    return draw(shape, dtype, device), draw(shape[dim : dim + 1], dtype, device, 1), dim


def gradients(function, x, b, dy, **options):
    x, b = x.detach().requires_grad_(), b.detach().requires_grad_()
    return torch.autograd.grad(function(x, b, **options), (x, b), dy)


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


@pytest.mark.parametrize("act", ["gelu", "tanh"])
def test_the_gradient_is_differentiable_alone(target, act):
    """As penalties use it: from x and b, or from y."""
    x, b, _ = inputs((2, 3, 2), device=target)
    spec = op.make_spec(1, act, None, None, None)
    dy = torch.ones_like(x).requires_grad_()

    def gradient(dy, x, b):
        return op.gradient(dy, spec.saved(x, op.activated(x, b, spec)), b, spec)

    assert torch.autograd.gradcheck(gradient, (dy, x.requires_grad_(), b.requires_grad_()))


# --- sums over channels ---


def test_sum_and_expand_are_each_others_derivative(target):
    x, b, _ = inputs((3, 4, 2), device=target)
    x.requires_grad_()
    b.requires_grad_()
    for function, argument in ((lambda x: sum_channels(x, 1).sin(), x), (lambda b: expand_channels(b, x, 1).sin(), b)):
        assert torch.autograd.gradcheck(function, argument)
        assert torch.autograd.gradgradcheck(function, argument)


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
