"""Normalizations and their modules beside torch's: running statistics, evaluation, keys, numbers far from 0."""

import copy
from functools import partial

import pytest
import torch
from channels import double, gradients, inputs
from samples import assert_as_exact, draw
from torch import nn
from torch.nn import functional as F

import fastgan
from fastgan import functional


def running(device="cpu", dtype=torch.float64):
    return draw((4,), dtype, device, 11), draw((4,), dtype, device, 12).abs() + 0.5


@pytest.mark.exact
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_running_statistics_move_as_torchs(target, dtype, norm):
    exact = torch.promote_types(dtype, torch.float32)
    (x, weight, bias), ours, torchs = inputs((5, 4, 3, 2), "C", dtype, target), running(target, exact), running()
    functional.norm_act(x, weight, bias, *ours, norm=norm, momentum=0.3)
    if norm == "batch":
        F.batch_norm(x.double().cpu(), *torchs, training=True, momentum=0.3)
    else:
        F.instance_norm(x.double().cpu(), *torchs, use_input_stats=True, momentum=0.3)
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a.double().cpu(), b, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-6)


def test_nothing_to_take_statistics_of(target):
    mean, var = running(target)
    before = mean.clone(), var.clone()
    functional.norm_act(torch.empty(0, 4, 3, dtype=torch.float64, device=target), None, None, mean, var)
    assert torch.equal(mean, before[0])
    assert torch.equal(var, before[1])


@pytest.mark.parametrize("numbers", ["C", "NC", "none"])
def test_evaluation(target, numbers):
    arguments, (mean, var) = inputs((5, 4, 3, 2), numbers, device=target), running(target)
    dy = draw((5, 4, 3, 2), device=target)

    def ours(x, weight, bias):
        return functional.norm_act(x, weight, bias, mean, var, training=False, act="lrelu")

    def plain(x, weight, bias):
        if weight is None or weight.ndim == 1:
            return F.leaky_relu(F.batch_norm(x, mean.cpu(), var.cpu(), weight, bias), 0.2)
        y = F.batch_norm(x, mean.cpu(), var.cpu())
        return F.leaky_relu(y * weight[..., None, None] + bias[..., None, None], 0.2)

    for a, b in zip(gradients(ours, arguments, dy), gradients(plain, double(arguments), dy.cpu()), strict=True):
        torch.testing.assert_close(a.cpu(), b)
    given = [t.requires_grad_() for t in arguments if t is not None]
    if numbers == "NC":
        assert torch.autograd.gradgradcheck(ours, given)


def terms(x, weight, dy):
    """What y and the gradients would be if no two terms of a sum had different signs; x and its mean are terms."""
    dims, rstd = (0, 2, 3), 1 / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    normalized = rstd * (x.abs() + x.mean(dims, keepdim=True).abs())
    weight, dy = weight.abs().view(-1, 1, 1), dy.abs()
    dx = rstd * weight * (dy + dy.mean(dims, keepdim=True) + normalized * (normalized * dy).mean(dims, keepdim=True))
    return [normalized * weight + 1, dx, (normalized * dy).sum(dims), dy.sum(dims)]


@pytest.mark.exact
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("far", ["mean", "first"])
def test_numbers_far_from_0(target, far, last):
    """A sum of squares about 0, or about a number far from the others in float32, would leave nothing right."""
    x = draw((4, 3, 40, 40))
    if far == "mean":
        x += 3000
    else:
        x[:, :, 0, 0] = 3000
    x = x.float()
    weight, bias = draw((3,), torch.float32, seed=1), draw((3,), torch.float32, seed=2)
    dy = draw((4, 3, 40, 40), torch.float32, seed=3)
    exact = [t.double() for t in (x, weight, bias)]
    given = [t.to(target) for t in (x.contiguous(memory_format=torch.channels_last) if last else x, weight, bias)]

    def ours(*tensors):
        return functional.norm_act(*tensors, act="linear")

    def plain(x, weight, bias):
        return F.batch_norm(x, None, None, weight, bias, True)

    for got, theirs, truth, of in zip(
        gradients(ours, given, dy.to(target)),
        gradients(plain, [x, weight, bias], dy),
        gradients(plain, exact, dy.double()),
        terms(exact[0], exact[1], dy.double()),
        strict=True,
    ):
        assert_as_exact(got, theirs, truth, of, dy.numel())


# --- modules ---

MODULES = {
    "batch": (fastgan.nn.BatchNormAct2d, nn.BatchNorm2d, {}),
    "not affine": (fastgan.nn.BatchNormAct2d, nn.BatchNorm2d, {"affine": False}),
    "no running statistics": (fastgan.nn.BatchNormAct2d, nn.BatchNorm2d, {"track_running_stats": False}),
    "cumulative": (fastgan.nn.BatchNormAct2d, nn.BatchNorm2d, {"momentum": None, "eps": 1e-3}),
    "instance": (fastgan.nn.InstanceNormAct2d, nn.InstanceNorm2d, {}),
    "instance, affine": (fastgan.nn.InstanceNormAct2d, nn.InstanceNorm2d, {"affine": True}),
    "instance, tracked": (fastgan.nn.InstanceNormAct2d, nn.InstanceNorm2d, {"track_running_stats": True}),
}


@pytest.mark.parametrize("name", MODULES)
def test_module_is_torchs_and_an_activation(target, name):
    ours_class, torchs_class, options = MODULES[name]
    ours = ours_class(4, act="lrelu", **options).to(target)
    torchs = torchs_class(4, **options).to(target)
    assert list(ours.state_dict()) == list(torchs.state_dict())
    torchs.load_state_dict(ours.state_dict())
    for seed in range(3):
        x = draw((5, 4, 3, 2), torch.float32, target, seed) + 1
        torch.testing.assert_close(ours(x), F.leaky_relu(torchs(x), 0.2))
    for a, b in zip(ours.state_dict().values(), torchs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    ours.eval(), torchs.eval()
    torch.testing.assert_close(ours(x), F.leaky_relu(torchs(x), 0.2))
    assert "act=lrelu" in repr(ours)


def test_conditional_module(target):
    module = fastgan.nn.ConditionalBatchNormAct2d(4, partial(nn.Linear, 6, bias=False)).to(target)
    plain = nn.BatchNorm2d(4, affine=False).to(target)
    statistics = {key: value for key, value in module.state_dict().items() if "weight" not in key}
    assert list(statistics) == list(plain.state_dict())
    x, y = draw((5, 4, 3, 2), torch.float32, target), draw((5, 6), torch.float32, target, 1)
    for training in (True, False):
        module.train(training), plain.train(training)
        gain, bias = 1 + y @ module.gain.weight.T, y @ module.bias.weight.T
        expected = torch.relu(plain(x) * gain[..., None, None] + bias[..., None, None])
        torch.testing.assert_close(module(x, y), expected)


def test_single_image_of_an_instance_norm():
    x = draw((4, 3, 2), torch.float32)
    torch.testing.assert_close(fastgan.nn.InstanceNormAct2d(4)(x), nn.InstanceNorm2d(4)(x).relu())


@pytest.mark.parametrize("module", [fastgan.nn.BatchNormAct2d, fastgan.nn.InstanceNormAct2d])
def test_module_refuses(module):
    with pytest.raises(ValueError, match="act must be one of"):
        module(4, act="sine")
    with pytest.raises(ValueError, match=r"expected|x must be \[N, C, H, W\], got"):
        module(4)(torch.ones(3, 4))


def test_compiled_module_moves_its_statistics():
    module, plain = fastgan.nn.BatchNormAct2d(4), nn.BatchNorm2d(4)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = draw((5, 4, 3, 2), torch.float32)
    torch.testing.assert_close(compiled(x), plain(x).relu())
    torch.testing.assert_close(module.running_var, plain.running_var)


TRACKED = [fastgan.nn.BatchNormAct2d(4), fastgan.nn.InstanceNormAct2d(4, affine=True, track_running_stats=True)]


@pytest.mark.parametrize("module", TRACKED, ids=lambda module: type(module).__name__)
def test_compiled_for_any_size(module):
    x = torch.randn(4, 4, 8, 8)
    compiled = torch.compile(module.eval(), fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))


def test_running_statistics_in_half_precision():
    """The variance may fit where the sum of squares does not; momentum comes first."""
    x = (torch.randn(8, 3, 8, 8) * 400).half()
    ours, torchs = fastgan.nn.BatchNormAct2d(3).half(), torch.nn.BatchNorm2d(3).half()
    ours(x), torchs(x)
    assert torchs.running_var.isfinite().all()
    torch.testing.assert_close(ours.running_var, torchs.running_var)


def test_conversion_to_synchronised_norms_keeps_the_activation():
    module = torch.nn.Sequential(fastgan.nn.BatchNormAct2d(3)).eval()
    x = torch.randn(2, 3, 4, 4)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(module))
    assert torch.equal(converted(x), module(x))


def test_backward_of_evaluation_behind_a_training_step():
    module = fastgan.nn.BatchNormAct2d(4)
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    y = module.eval()(x)
    (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    module.train()(x.detach())
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], expected)


@pytest.mark.parametrize("name", ["momentum", "eps"])
def test_numbers_have_to_be_numbers(name):
    with pytest.raises(TypeError, match=f"{name} must be a number, got NoneType None"):
        functional.norm_act(torch.ones(2, 3, 4), **{name: None})


@pytest.mark.parametrize("eps", [1e-5, 0, 0.0, -1e-12, -0.5, -2.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_eps_that_is_not_positive(norm, training, eps):
    """Taken or refused as torch does."""
    x, mean, var = torch.randn(3, 4, 5, dtype=torch.float64), torch.zeros(4).double(), torch.ones(4).double()
    if norm == "batch":
        theirs = partial(F.batch_norm, x, mean.clone(), var.clone(), training=training, eps=eps)
    else:
        theirs = partial(F.instance_norm, x, mean.clone(), var.clone(), use_input_stats=training, eps=eps)
    ours = partial(functional.norm_act, x, None, None, mean, var, norm=norm, training=training, eps=eps, act="linear")
    if norm == "batch" and eps < (1e-300 if training else 0):
        for function in (ours, theirs):
            with pytest.raises(ValueError, match="eps must be"):
                function()
    else:
        torch.testing.assert_close(ours(), theirs(), rtol=1e-11, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 3, 0), (2, 3, 4, 0)], ids=str)
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_second_derivatives_of_nothing(target, shape, norm):
    """Zeros, as torch's: the mean of nothing is used nowhere."""
    x = torch.empty(shape, dtype=torch.float64, device=target, requires_grad=True)
    weight, bias = (torch.ones(3, dtype=torch.float64, device=target, requires_grad=True) for _ in range(2))
    y = functional.norm_act(x, weight, bias, norm=norm, act="elu")
    dy = torch.ones_like(y, requires_grad=True)
    first = torch.autograd.grad(y, (x, weight, bias), dy, create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first), (x, weight, bias, dy), allow_unused=True)
    for gradient in (*first, *second):
        assert gradient is None or not gradient.any()
