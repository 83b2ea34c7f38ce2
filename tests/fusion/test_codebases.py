"""Networks in the styles of known codebases train as the untouched ones do: tests/codebases."""

import copy

import pytest
import torch
from codebases import CODEBASES
from deferrals import assert_no_mode, outcome

import fastgan
from fastgan.fusion.report import PLAIN
from fastgan.penalty import R1, WGANGP, penalized_loss

# In float32 a unit within rounding of its kink falls to either side, whatever computes it: one of thousands changes a
# gradient by up to 1e-3. Float64 shows that the maths are the same.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
everywhere = pytest.mark.parametrize("name", CODEBASES)
critics = pytest.mark.parametrize("name", [name for name, entry in CODEBASES.items() if entry.critic])


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request):
    torch.set_default_dtype(request.param)
    return request.param


def pair(name):
    """The untouched and the accelerated network."""
    plain, net = CODEBASES[name].network(), CODEBASES[name].network()
    return plain, net, fastgan.accelerate(net)


def same(ours, theirs, dtype=torch.float64, exact=None):
    """By name: within the tolerance, relative to each norm and to a thousandth of the norm of all.

    Where a gradient is zero but for rounding, as `exact` in float64 says (a bias before a batch norm), there is nothing
    to be relative to but all the others.
    """
    assert ours.keys() == theirs.keys()
    tensors = [t.double() for t in theirs.values() if t is not None]
    assert all(t.isfinite().all() for t in tensors)
    size = sum(float(t.square().sum()) for t in tensors) ** 0.5
    assert size > 0
    for key, expected in theirs.items():
        if expected is None:
            assert ours[key] is None, key
            continue
        error = float((ours[key].double() - expected.double()).norm())
        bound = TOLERANCE[dtype] * max(float(expected.double().norm()), 1e-3 * size)
        if exact is not None:  # theirs may be far from it too: twice that is ours, and both are between the two
            bound += 3 * float((expected.double() - exact[key]).norm())
        if exact is not None and float(exact[key].norm()) <= 1e-10 * size:
            bound = 2**-16 * size
        assert error <= bound, (key, error, bound)


def gradients(net, out, *inputs):
    """Of all parameters and inputs, for a gradient that differs everywhere."""
    net.zero_grad(set_to_none=True)
    (out * torch.linspace(1, 2, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    return grads | {f"input {i}": x.grad for i, x in enumerate(inputs)} | {"out": out.detach()}


def buffers(net):
    return {name: t.detach().clone() for name, t in net.named_buffers() if t.is_floating_point()}


@everywhere
def test_something_is_found(name):
    _, net, report = pair(name)
    net(*CODEBASES[name].inputs())
    assert [row for row in report.rows[0] if row.runs != PLAIN], report


@everywhere
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_and_gradients(name, training, dtype):
    plain, net, _ = pair(name)
    exact = copy.deepcopy(plain).double()
    for i in range(3):
        results = []
        for each in (net, plain, exact):
            each.train(training)
            x, *labels = CODEBASES[name].inputs(seed=i)
            x = x.to(next(each.parameters()).dtype).requires_grad_()
            results.append(gradients(each, each(x, *labels), x))
            assert_no_mode()
        same(*results[:2], dtype, results[2] if dtype == torch.float32 else None)
        with torch.no_grad():
            inputs = CODEBASES[name].inputs(n=3, seed=10 + i)
            same({"out": net(*inputs)}, {"out": plain(*inputs)}, dtype)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert {n: (t.shape, t.dtype) for n, t in net.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in plain.state_dict().items()
    }


@everywhere
def test_three_steps(name, dtype):
    """Of an optimizer, then weights, buffers and an evaluation."""
    plain, net, _ = pair(name)
    results = []
    for each in (net, plain):
        optimizer = torch.optim.SGD(each.parameters(), 0.01, momentum=0.9)
        for i in range(3):
            optimizer.zero_grad()
            each(*CODEBASES[name].inputs(seed=i)).square().mean().backward()
            optimizer.step()
        weights = {f"weight {n}": p.detach() for n, p in each.named_parameters()}
        evaluated = each.eval()(*CODEBASES[name].inputs(seed=9)).detach()
        results.append(weights | {f"buffer {n}": t for n, t in buffers(each).items()} | {"out": evaluated})
        integers = {n: t.item() for n, t in each.named_buffers() if not t.is_floating_point()}
        assert all(count == 3 for count in integers.values())
    same(*results, dtype)


@everywhere
def test_two_forwards_before_a_backward(name):
    plain, net, _ = pair(name)
    for turn in range(2):
        results = []
        for each in (net, plain):
            one = each(*CODEBASES[name].inputs(seed=turn))
            two = each(*CODEBASES[name].inputs(seed=turn + 5, n=3))
            results.append(gradients(each, torch.cat([one.flatten(), two.flatten()])))
        same(*results)


@everywhere
def test_first_seen_without_gradients(name):
    """As when samples are drawn before training begins."""
    plain, net, report = pair(name)
    results = []
    for each in (net, plain):
        with torch.no_grad():
            each.eval()(*CODEBASES[name].inputs())
        each.train()
        for i in range(2):
            grads = gradients(each, each(*CODEBASES[name].inputs(seed=i)))
        results.append(grads | buffers(each))
    same(*results)
    assert report.forwards == [2]


@critics
def test_penalty_by_double_backward(name):
    plain, net, _ = pair(name)
    for i in range(3):
        results = []
        for each in (net, plain):
            x, *labels = CODEBASES[name].inputs(seed=i)
            x.requires_grad_()
            out = each(x, *labels)
            (gx,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            loss = gx.square().sum((1, *range(2, gx.ndim))).mean() + out.mean()
            results.append(gradients(each, loss) | {"gx": gx.detach()})
        same(*results)


@critics
@pytest.mark.parametrize("penalty", [R1(), WGANGP(eps=torch.tensor([0.3, 0.8]))], ids=["R1", "WGANGP"])
def test_penalized_loss(name, penalty):
    """Of the untouched and the accelerated critic, on the first forward and after it; by either engine."""
    plain, net, _ = pair(name)
    for i in range(3):
        results, paths = [], []
        for each in (net, plain):
            real, *labels = CODEBASES[name].inputs(seed=i)
            fake = CODEBASES[name].inputs(seed=i + 7)[0]
            each.zero_grad(set_to_none=True)
            out = penalized_loss(
                each,
                real,
                fake,
                lambda real, fake: (fake - real).square().mean(),
                [penalty],
                real_args=labels,
                fake_args=labels,
            )
            out.loss.backward()
            paths.append(out.path)
            results.append(
                {n: p.grad for n, p in each.named_parameters()} | buffers(each) | {"loss": out.loss.detach()}
            )
        same(*results)
        assert paths[0] == paths[1]


@everywhere
def test_autocast(name):
    """bfloat16: as far from float64 as the untouched network is for some inputs, within a factor."""
    torch.set_default_dtype(torch.float32)
    plain, net, _ = pair(name)
    exact = CODEBASES[name].network().double()
    ours, theirs = [], []
    for i in range(8):
        inputs = CODEBASES[name].inputs(seed=i)
        expected = exact(inputs[0].double(), *inputs[1:])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = net(*inputs), plain(*inputs)
        assert outputs[0].dtype == outputs[1].dtype
        # Of few outputs a single draw's rounding may be small by luck.
        for errors, out in zip((ours, theirs), outputs, strict=True):
            errors.append(float((out.double() - expected).norm()))
        outputs[0].float().sum().backward()
    assert max(ours) <= 2 * max(theirs) + 2**-8 * float(expected.norm())


@everywhere
def test_channels_last(name):
    plain, net, _ = pair(name)
    if len(CODEBASES[name].shape) != 3:
        pytest.skip("no images")
    x, *labels = CODEBASES[name].inputs()
    x = x.to(memory_format=torch.channels_last)
    for each in (plain, net):
        each.to(memory_format=torch.channels_last)
    for _ in range(2):
        same(gradients(net, net(x, *labels)), gradients(plain, plain(x, *labels)))


@everywhere
def test_restored(name):
    plain, net, _ = pair(name)
    inputs = CODEBASES[name].inputs()
    net(*inputs), plain(*inputs)
    fastgan.restore(net)
    same({"out": net(*inputs)}, {"out": plain(*inputs)})
    for part, other in zip(net.modules(), plain.modules(), strict=True):
        assert len(part._forward_pre_hooks) == len(other._forward_pre_hooks)
        assert len(part._forward_hooks) == len(other._forward_hooks)


def test_outcome_of_a_batch_of_one():
    """Where torch refuses batch norm of one value, so do we."""
    for name in ("wgan-gp generator", "dcgan generator"):
        plain, net, _ = pair(name)
        net(*CODEBASES[name].inputs()), plain(*CODEBASES[name].inputs())
        one = CODEBASES[name].inputs(n=1)
        ours, theirs = outcome(net, *one), outcome(plain, *one)
        if isinstance(theirs, tuple):
            assert ours == theirs
        else:
            same({"out": ours.detach()}, {"out": theirs.detach()})
