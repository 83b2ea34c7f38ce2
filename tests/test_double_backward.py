"""Double backward without its waste: the same bits, fewer FLOPs."""

import collections

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fastgan.penalty import double_backward
from fastgan.penalty.double_backward import efficient_convolutions, input_gradient


def plain_gradient(logits, x):
    return torch.autograd.grad(logits.sum(), x, create_graph=True)[0]


def nodes(tensor):
    seen, stack = set(), [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [below for below, _ in node.next_functions]
    return {node.name() for node in seen}


def efficient(function):
    def run(*tensors):
        with efficient_convolutions():
            return function(*tensors)

    return run


def gradients(critic, x, gradient, adversarial, forward=None):
    """Gradients of penalty, and loss, for the critic's parameters and x."""
    critic.zero_grad()
    x = x.clone().requires_grad_()
    logits = (forward or critic)(x)
    loss = 5 * gradient(logits, x).square().flatten(1).sum(1).mean()
    if adversarial:
        loss = loss + F.softplus(-logits).mean()
    loss.backward()
    return [t.grad for t in (x, *critic.parameters())]


class Around(nn.Module):
    """An operation between two layers with parameters."""

    def __init__(self, operation, dims, inplace):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.operation, self.inplace = operation, inplace
        self.below, self.above = conv(2, 3, 3, padding=1), conv(3, 2, 3, padding=1)

    def forward(self, x):
        h = self.below(x)
        # Random pooling must be the same in every run.
        torch.manual_seed(1)
        return self.above(self.operation(h.clone() if self.inplace else h)).sin()


# Name of the node -> number of spatial dimensions, the operation, whether it is in place.
OPERATIONS = {
    "LeakyRelu": [(2, lambda x: F.leaky_relu(x, 0.2), False), (2, lambda x: F.leaky_relu_(x, 0.2), True)],
    "Threshold": [(2, F.relu, False), (2, F.relu_, True), (1, lambda x: F.threshold(x, 0.1, 0.3), False)],
    "Hardtanh": [(2, F.hardtanh, False), (2, F.relu6, False), (2, lambda x: F.hardtanh_(x), True)],
    "RreluWithNoise": [(2, lambda x: F.rrelu(x, training=True), False)],
    "Hardshrink": [(2, lambda x: F.hardshrink(x, 0.1), False)],
    "Softshrink": [(2, lambda x: F.softshrink(x, 0.1), False)],
    "PreluKernel": [(2, nn.PReLU(3, dtype=torch.float64), False)],
    "Sgn": [(2, torch.abs, False)],
    "AvgPool2D": [(2, lambda x: F.avg_pool2d(x, 2), False), (1, lambda x: F.avg_pool1d(x, 2), False)],
    "AvgPool3D": [(3, lambda x: F.avg_pool3d(x, 2), False)],
    "AdaptiveAvgPool2D": [(2, lambda x: F.adaptive_avg_pool2d(x, 3), False)],
    "AdaptiveAvgPool3D": [(3, lambda x: F.adaptive_avg_pool3d(x, 3), False)],
    "MaxPool2DWithIndices": [(2, lambda x: F.max_pool2d(x, 2), False), (1, lambda x: F.max_pool1d(x, 2), False)],
    "MaxPool3DWithIndices": [(3, lambda x: F.max_pool3d(x, 2), False)],
    "AdaptiveMaxPool2D": [(2, lambda x: F.adaptive_max_pool2d(x, 3), False)],
    "AdaptiveMaxPool3D": [(3, lambda x: F.adaptive_max_pool3d(x, 3), False)],
    "FractionalMaxPool2D": [(2, lambda x: F.fractional_max_pool2d(x, 2, 3), False)],
    "FractionalMaxPool3D": [(3, lambda x: F.fractional_max_pool3d(x, 2, 3), False)],
    **{f"ReflectionPad{d}D": [(d, lambda x: F.pad(x, [1] * 2 * (x.ndim - 2), "reflect"), False)] for d in (1, 2, 3)},
    **{f"ReplicationPad{d}D": [(d, lambda x: F.pad(x, [1] * 2 * (x.ndim - 2), "replicate"), False)] for d in (1, 2, 3)},
}


def node_name(name):
    return "SgnBackward0" if name == "Sgn" else f"{name}BackwardBackward0"


def test_every_hook_is_tested():
    # MaxPool2D is the node of Apple's devices.
    assert set(double_backward._HOOKS) == {*map(node_name, OPERATIONS), node_name("MaxPool2D")}


@pytest.mark.parametrize("adversarial", [False, True], ids=["penalty", "adversarial"])
@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name}-{i}") for name in OPERATIONS for i, case in enumerate(OPERATIONS[name])],
)
def test_gradients_are_bit_identical(name, case, adversarial):
    dims, operation, inplace = case
    torch.manual_seed(0)
    critic = Around(operation, dims, inplace).double()
    x = torch.randn(2, 2, *[6] * dims, dtype=torch.float64)
    y = x.clone().requires_grad_()
    assert node_name(name) in nodes(plain_gradient(critic(y), y))
    expected = gradients(critic, x, plain_gradient, adversarial)
    for want, got in zip(expected, gradients(critic, x, input_gradient, adversarial), strict=True):
        assert torch.equal(want, torch.zeros_like(want) if got is None else got)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "Sgn"])
def test_torch_returns_zeros_there(name):
    dims, operation, _ = OPERATIONS[name][0]
    x = torch.randn(2, 3, *[6] * dims, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    y = operation(x)
    dy = torch.randn_like(y).requires_grad_()
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    second = torch.autograd.grad((dx * torch.randn_like(dx)).sum(), x, allow_unused=True)[0]
    assert second is not None
    assert not second.any()


class Critic(nn.Module):
    """Three convolutions: in place, shared slopes, pooling, a residual sum and a linear head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.prelu, self.head = nn.PReLU(4), nn.Linear(4 * 16, 1)

    def forward(self, x):
        h = F.leaky_relu(self.first(x), 0.2, inplace=True)
        h = F.avg_pool2d(h + self.prelu(self.second(h)).abs(), 2)
        return self.head(F.relu(h, inplace=True).flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_critic_is_bit_identical(dtype):
    torch.manual_seed(0)
    critic, x = Critic().to(dtype), torch.randn(3, 3, 8, 8, dtype=dtype)
    expected = gradients(critic, x, plain_gradient, True)
    for want, got in zip(expected, gradients(critic, x, input_gradient, True), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_smooth_critics_keep_their_second_derivatives():
    torch.manual_seed(0)
    activations = nn.Softplus(), nn.ReLU(), nn.Tanh()
    layers = [layer for activation in activations for layer in (nn.Linear(32, 32), activation)]
    critic = nn.Sequential(*layers, nn.Linear(32, 1)).double()
    x = torch.randn(3, 32, dtype=torch.float64)
    expected = gradients(critic, x, plain_gradient, False)
    assert expected[0].any()
    for want, got in zip(expected, gradients(critic, x, input_gradient, False), strict=True):
        assert torch.equal(want, got) if want is not None else got is None


def test_third_order():
    weight = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def penalty(x, weight, gradient):
        return gradient(F.leaky_relu(x @ weight).pow(3).sum(1), x).square().sum()

    results = []
    for gradient in (plain_gradient, input_gradient):
        (dw,) = torch.autograd.grad(penalty(x, weight, gradient), weight, create_graph=True)
        results.append(torch.autograd.grad(dw.square().sum(), (x, weight)))
    for want, got in zip(*results, strict=True):
        assert torch.equal(want, got)


def test_gradient_through_the_slope_of_prelu():
    results = []
    for hooked in (False, True):
        torch.manual_seed(0)
        x, slope = torch.randn(5, 3, requires_grad=True), torch.rand(3, requires_grad=True)
        dx, dslope = torch.autograd.grad(F.prelu(x, slope).square().sum(), (x, slope), create_graph=True)
        if hooked:
            double_backward._leave_out_zeros([dx.grad_fn])
        results.append(torch.autograd.grad(dx.square().sum() + dslope.square().sum(), (x, slope)))
    for want, got in zip(*results, strict=True):
        assert torch.equal(want, got)


def test_a_complex_absolute_value_keeps_its_second_derivative():
    results = []
    for gradient in (plain_gradient, input_gradient):
        torch.manual_seed(0)
        x = torch.randn(5, dtype=torch.complex128, requires_grad=True)
        (second,) = torch.autograd.grad(gradient(x.abs(), x).real.square().sum(), x)
        results.append(second)
    assert results[0].any()
    assert torch.equal(*results)


def test_an_unused_bias_gets_none():
    critic = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(), nn.Linear(4, 1))
    gradients(critic, torch.randn(2, 4), input_gradient, False)
    assert critic[0].bias.grad is None
    assert critic[0].weight.grad is not None


def test_a_linear_critic_without_parameters():
    x = torch.ones(2, 3, requires_grad=True)
    assert torch.equal(input_gradient((2 * x).sum(1), x), torch.full((2, 3), 2.0))


@pytest.mark.parametrize(
    ("logits", "x", "error", "message"),
    [
        ([1.0], torch.ones(1), TypeError, "logits must be a tensor, got list"),
        (torch.ones(2), torch.ones(2, requires_grad=True), ValueError, "logits must require grad"),
        (torch.ones(2, requires_grad=True) * 2, torch.ones(2), ValueError, "x must require grad"),
        (
            torch.ones(2, requires_grad=True) * 2,
            torch.ones(2, requires_grad=True),
            ValueError,
            "logits must depend on x",
        ),
    ],
)
def test_what_is_refused(logits, x, error, message):
    with pytest.raises(error, match=message):
        input_gradient(logits, x)


# --- FLOPs ---


def layers():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 1, 4)
    )


class Counter(TorchDispatchMode):
    """FLOPs, and those of each operation."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.counts[func.overloadpacket] += formula(*args, **(kwargs or {}), out_val=out)
        return out


def count(function):
    with Counter() as counter:
        function()
    return counter.counts.total(), counter.counts


@pytest.mark.parametrize("convolutions", ["plain", "efficient"])
def test_no_zeros_are_computed(convolutions):
    critic, x = layers(), torch.randn(2, 3, 8, 8)
    total, _ = count(lambda: critic(x))
    head = total - count(lambda: critic[:4](x))[0]
    forward = efficient(critic) if convolutions == "efficient" else critic
    wanted, counts = count(lambda: gradients(critic, x, input_gradient, False, forward))
    with_zeros, _ = count(lambda: gradients(critic, x, plain_gradient, False, forward))
    assert with_zeros - wanted == 2 * (total - head)
    # Forward, input gradient, its gradient and the weights' gradients. torch also computes the gradient of the ones
    # that arrive at the logits.
    assert wanted == 4 * total - (head if convolutions == "efficient" else 0)
    if convolutions == "efficient":
        assert counts[torch.ops.aten.convolution_backward] == 2 * total


# --- convolutions ---


CONVOLUTIONS = {
    "1d": (lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1), (2, 2, 5), (3, 2, 3), 3),
    "2d groups": (lambda x, w, b: F.conv2d(x, w, bias=b, groups=2, padding=(1, 0)), (2, 4, 4, 3), (4, 2, 3, 2), 4),
    "2d dilated": (
        lambda x, w, b: F.conv2d(input=x, weight=w, bias=b, dilation=2, stride=2),
        (2, 2, 6, 5),
        (2, 2, 2, 2),
        2,
    ),
    "2d valid": (lambda x, w, b: F.conv2d(x, w, b, padding="valid"), (2, 2, 3, 3), (2, 2, 2, 2), 2),
    "3d": (lambda x, w, b: F.conv3d(x, w, b, (2, 1, 1), 1), (1, 2, 3, 2, 2), (2, 2, 3, 3, 2), 2),
    "transposed 1d": (lambda x, w, b: F.conv_transpose1d(x, w, b, 2, 1, 1), (2, 2, 3), (2, 3, 3), 3),
    "transposed 2d": (lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2, 2), (1, 4, 3, 2), (4, 1, 2, 3), 2),
    "transposed 3d": (lambda x, w, b: F.conv_transpose3d(x, w, b, stride=2), (1, 2, 2, 1, 2), (2, 2, 2, 2, 1), 2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    function, *shapes = CONVOLUTIONS[name]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    run = efficient(function)
    assert "_ConvolutionBackward" in run(*tensors).grad_fn.name()
    assert torch.equal(run(*tensors), function(*tensors))
    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


# torch itself has no third derivative of a transposed convolution with output padding.
@pytest.mark.parametrize("name", ["2d groups", "transposed 3d"])
def test_third_order_of_convolutions(name):
    function, *shapes = CONVOLUTIONS[name]
    torch.manual_seed(0)
    x, w, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)

    def third(function):
        y = function(x.tanh(), w.tanh(), b).tanh().sum()
        first = torch.autograd.grad(y, (x, w), create_graph=True)
        second = torch.autograd.grad(sum(g.tanh().sum() for g in first), (x, w), create_graph=True)
        return torch.autograd.grad(sum(g.tanh().sum() for g in second), (x, w, b))

    for want, got in zip(third(function), third(efficient(function)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "frozen", ["", "0.weight", "0.bias 2.bias 4.bias", "0.weight 0.bias 2.weight 2.bias 4.weight 4.bias"]
)
def test_critics_with_efficient_convolutions(frozen):
    torch.manual_seed(0)
    critic, x = layers().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for name, parameter in critic.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    expected = gradients(critic, x, plain_gradient, True)
    for want, got in zip(expected, gradients(critic, x, input_gradient, True, efficient(critic)), strict=True):
        assert (want is None) == (got is None)
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("asked", ["x", "weight", "hidden"])
def test_convolutions_compute_only_what_was_asked_for(asked):
    critic, x = layers(), torch.randn(2, 3, 8, 8, requires_grad=True)
    total, _ = count(lambda: critic(x))
    first, _ = count(lambda: critic[0](x))
    second, _ = count(lambda: critic[:3](x))
    second -= first
    with efficient_convolutions():
        hidden = critic[:2](x)
        logits = critic[2:](hidden)
    inputs, expected = {
        "x": (x, total),
        "weight": (critic[2].weight, total - first),
        "hidden": (hidden, total - first),
    }[asked]
    assert count(lambda: torch.autograd.grad(logits.sum(), inputs))[0] == expected


@pytest.mark.parametrize("bias", [True, False])
def test_autocast(bias):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 4, 3, bias=bias), torch.randn(2, 3, 5, 5, requires_grad=True)
    results = []
    for function in (conv, efficient(conv)):
        with torch.autocast("cpu", torch.bfloat16):
            y = function(x)
        assert y.dtype == torch.bfloat16
        results.append([y, *torch.autograd.grad(y.float().square().sum(), (x, *conv.parameters()))])
    for want, got in zip(*results, strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


def test_backward_under_autocast():
    """What was computed in float32 is differentiated in it."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5, requires_grad=True)
    results = []
    for autocast in (False, True):
        y = efficient(conv)(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            (dx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
            results.append([dx, *torch.autograd.grad(dx.square().sum(), (x, conv.weight))])
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x, w: F.conv2d(x, w, padding="same"), (1, 2, 5, 5)),
        (lambda x, w: F.conv2d(x, w), (2, 5, 5)),
        (lambda x, w: F.conv2d(x, w.detach()).detach().requires_grad_() * 1, (1, 2, 5, 5)),
    ],
    ids=["same", "unbatched", "constant"],
)
def test_plain_convolutions_where_there_is_no_efficient_one(function, shape):
    x, w = torch.randn(shape), torch.randn(2, 2, 3, 3, requires_grad=True)
    y = efficient(function)(x, w)
    assert torch.equal(y, function(x, w))
    assert "_ConvolutionBackward" not in y.grad_fn.name()


def test_no_interception_outside_of_the_context():
    conv = nn.Conv2d(2, 2, 1)
    with efficient_convolutions():
        pass
    assert conv(torch.ones(1, 2, 1, 1)).grad_fn.name() == "ConvolutionBackward0"
