"""Residual blocks against their published definitions, written down in plain torch."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from samples import seeded
from torch import nn
from torch.nn.utils import parametrizations

from fastgan.nn import BatchNormAct2d, ConditionalBatchNormAct2d, DBlock, DBlockOptimized, GBlock, InstanceNormAct2d
from fastgan.nn.utils import group_spectral_norm
from fastgan.penalty import R1, penalized_loss


def up(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def published_g(block, x, *, upsample, act=F.relu, norm=None):
    """SNGAN, figure 7(b), BigGAN, figure 15(a); running statistics are left as they are."""
    resample = up if upsample else (lambda h: h)

    def normalized(bn, h):
        return norm(bn, h) if norm else F.batch_norm(h, None, None, bn.weight, bn.bias, training=True, eps=bn.eps)

    h = F.conv2d(resample(act(normalized(block.bn1, x))), block.conv1.weight, block.conv1.bias, padding=1)
    h = F.conv2d(act(normalized(block.bn2, h)), block.conv2.weight, block.conv2.bias, padding=1)
    if block.conv_sc is None:
        return h + x
    return h + F.conv2d(resample(x), block.conv_sc.weight, block.conv_sc.bias)


def published_d(block, x, *, downsample, preactivation=True, act=F.relu):
    """SNGAN, figure 7(c) and, without preactivation, figure 7(d); BigGAN, figure 15(b)."""
    pool = partial(F.avg_pool2d, kernel_size=2) if downsample else (lambda h: h)
    h = F.conv2d(act(x) if preactivation else x, block.conv1.weight, block.conv1.bias, padding=1)
    h = pool(F.conv2d(act(h), block.conv2.weight, block.conv2.bias, padding=1))
    if block.conv_sc is None:
        return h + x
    # In the first block pooling comes first.
    shortcut = partial(F.conv2d, weight=block.conv_sc.weight, bias=block.conv_sc.bias)
    return h + (pool(shortcut(x)) if preactivation else shortcut(pool(x)))


def randomized(block, seed=0):
    """Float64, and no parameter that is 0 or 1."""
    generator = seeded(seed)
    for parameter in block.double().parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return block


def draw(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64, requires_grad=True)


CASES = {
    "g": (lambda: GBlock(4, 6), partial(published_g, upsample=True)),
    "g, hidden": (lambda: GBlock(4, 6, 5), partial(published_g, upsample=True)),
    "g, same": (lambda: GBlock(4, 4, upsample=False), partial(published_g, upsample=False)),
    "g, wider": (lambda: GBlock(4, 6, upsample=False), partial(published_g, upsample=False)),
    "g, leaky": (
        lambda: GBlock(4, 6, act="lrelu"),
        partial(published_g, upsample=True, act=partial(F.leaky_relu, negative_slope=0.2)),
    ),
    "g, instance": (
        lambda: GBlock(4, 6, norm=partial(InstanceNormAct2d, affine=True)),
        partial(
            published_g, upsample=True, norm=lambda n, h: F.instance_norm(h, weight=n.weight, bias=n.bias, eps=n.eps)
        ),
    ),
    "d": (lambda: DBlock(4, 6, downsample=True), partial(published_d, downsample=True)),
    "d, hidden": (lambda: DBlock(4, 6, 5, downsample=True), partial(published_d, downsample=True)),
    "d, same": (lambda: DBlock(4, 4), partial(published_d, downsample=False)),
    "d, wider": (lambda: DBlock(4, 6), partial(published_d, downsample=False)),
    "d, leaky": (
        lambda: DBlock(4, 6, act="lrelu"),
        partial(published_d, downsample=False, act=partial(F.leaky_relu, negative_slope=0.2)),
    ),
    "d, first": (lambda: DBlockOptimized(3, 6), partial(published_d, downsample=True, preactivation=False)),
    "d, first of BigGAN": (
        lambda: DBlock(3, 6, 6, downsample=True, preactivation=False),
        partial(published_d, downsample=True, preactivation=False),
    ),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("case", CASES)
def test_as_published(case, layout):
    make, published = CASES[case]
    block = randomized(make())
    c_in = block.conv1.in_channels
    x = draw(3, c_in, 6, 10).detach().contiguous(memory_format=layout).requires_grad_()
    ours, theirs = block(x), published(block, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    inputs = [x, *block.parameters()]
    dy = torch.randn_like(ours)
    for got, expected in zip(
        torch.autograd.grad(ours, inputs, dy), torch.autograd.grad(theirs, inputs, dy), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_second_order(case):
    make, published = CASES[case]
    block = randomized(make())
    x = draw(2, block.conv1.in_channels, 4, 4)
    seconds = []
    for forward in (block, partial(published, block)):
        # The square: the sum of what a batch norm makes of a batch does not depend on the batch.
        (g,) = torch.autograd.grad(forward(x).square().sum(), x, create_graph=True)
        parameters = [block.conv1.weight, block.conv2.weight, x]
        seconds.append(torch.autograd.grad(g.square().sum(), parameters))
    for got, expected in zip(*seconds, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())


def test_keys_of_biggan_and_sngan():
    g, d = GBlock(4, 6), DBlockOptimized(3, 6)
    assert {key.split(".")[0] for key in g.state_dict()} == {"bn1", "conv1", "bn2", "conv2", "conv_sc"}
    assert {key.split(".")[0] for key in d.state_dict()} == {"conv1", "conv2", "conv_sc"}
    names = {"conv1": "c1", "conv2": "c2", "conv_sc": "c_sc", "bn1": "b1", "bn2": "b2"}
    for block in (g, d):
        network = nn.Sequential(copy.deepcopy(block), block)
        state = network.state_dict()
        renamed = {}
        for key, value in state.items():
            number, name, rest = key.split(".", 2)
            renamed[f"{number}.{names[name]}.{rest}"] = torch.randn_like(value) if value.is_floating_point() else value
        given = list(renamed)
        network.load_state_dict(renamed)
        assert list(renamed) == given  # the caller's own is left alone
        for (key, value), expected in zip(network.state_dict().items(), renamed.values(), strict=True):
            torch.testing.assert_close(value, expected, msg=key)


def test_an_unknown_key_is_still_refused():
    state = {f"c3{key}": value for key, value in GBlock(4, 6).state_dict().items()}
    with pytest.raises(RuntimeError, match="Missing key"):
        GBlock(4, 6).load_state_dict(state)


def test_running_statistics_are_batch_norms():
    block = GBlock(4, 6)
    norm = nn.BatchNorm2d(4)
    x = torch.randn(5, 4, 6, 6)
    block(x)
    norm(x)
    for key, value in norm.state_dict().items():
        torch.testing.assert_close(block.bn1.state_dict()[key], value)
    block.eval()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    torch.testing.assert_close(block(x[:2]), block(x)[:2])
    assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())


@pytest.mark.parametrize("group", [False, True])
def test_spectral_norm_of_torch(group):
    torch.manual_seed(0)
    ours = nn.Sequential(DBlockOptimized(3, 8), DBlock(8, 8, downsample=True), DBlock(8, 8))
    for layer in ours.modules():
        if isinstance(layer, nn.Conv2d):
            parametrizations.spectral_norm(layer)
    assert sum("parametrizations" in key for key in ours.state_dict()) == 3 * 8
    theirs = copy.deepcopy(ours)
    if group:
        group_spectral_norm(ours)
    x = torch.randn(2, 3, 16, 16)
    expected = x
    for block, downsample, preactivation in zip(theirs, (True, True, False), (False, True, True), strict=True):
        expected = published_d(block, expected, downsample=downsample, preactivation=preactivation)
    got = ours(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    # What the plain form reads once, the folded one reads once: the iterations agree.
    for (key, value), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, msg=key)


def test_gradient_penalty_is_linearized():
    torch.manual_seed(0)
    blocks = [DBlockOptimized(3, 8), DBlock(8, 8, downsample=True, act="lrelu"), DBlock(8, 8)]
    critic = nn.Sequential(*blocks, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 1)).double()
    real = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    gradients = {}
    for engine in ("linearized", "double_backward"):
        critic.zero_grad()
        out = penalized_loss(critic, real, None, lambda real, _: F.softplus(-real).mean(), [R1(2.0)], engine=engine)
        assert out.path == engine
        out.loss.backward()
        gradients[engine] = [parameter.grad for parameter in critic.parameters()]
    for got, expected in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_under_autocast():
    block = GBlock(4, 6).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(torch.randn(2, 4, 8, 8, dtype=torch.float32))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in block.parameters())


@pytest.mark.parametrize("make", [lambda: GBlock(4, 6), lambda: DBlock(4, 6, downsample=True)])
def test_compiles_whole(make):
    block = make()
    x = torch.randn(2, 4, 8, 8)
    other = copy.deepcopy(block)
    torch.testing.assert_close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), other(x))


def test_batch_norm_is_the_default():
    assert isinstance(GBlock(4, 6).bn1, BatchNormAct2d)


@pytest.mark.parametrize("condition", [partial(nn.Linear, 5, bias=False), partial(nn.Embedding, 7)])
def test_conditional_norm_of_biggan(condition):
    block = randomized(GBlock(4, 6, norm=partial(ConditionalBatchNormAct2d, condition=condition)))
    x = draw(3, 4, 6, 6)
    y = draw(3, 5, seed=1) if isinstance(block.bn1.gain, nn.Linear) else torch.tensor([6, 0, 3])

    def norm(bn, h):
        h = F.batch_norm(h, None, None, training=True, eps=bn.eps)
        return h * (1 + bn.gain(y))[:, :, None, None] + bn.bias(y)[:, :, None, None]

    ours, theirs = block(x, y), published_g(block, x, upsample=True, norm=norm)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    inputs, dy = [x, *block.parameters()], torch.randn_like(ours)
    for got, expected in zip(*(torch.autograd.grad(out, inputs, dy) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_statistics_of_biggan_load():
    block = GBlock(4, 6, norm=partial(ConditionalBatchNormAct2d, condition=partial(nn.Linear, 5, bias=False)))
    # As that codebase names them, which does not count batches.
    names = {"running_mean": "stored_mean", "running_var": "stored_var"}
    state = {}
    for key, value in block.state_dict().items():
        *path, last = key.split(".")
        if last != "num_batches_tracked":
            state[".".join([*path, names.get(last, last)])] = torch.randn_like(value)
    block.load_state_dict(state)
    torch.testing.assert_close(block.bn2.running_var, state["bn2.stored_var"])
    torch.testing.assert_close(block.bn1.gain.weight, state["bn1.gain.weight"])
