"""Accelerated networks under what looks into modules: copies, files, compilers, torch.func, DistributedDataParallel."""

import copy
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from codebases import CODEBASES
from deferrals import CHAINS, Norm, Up, accelerated, assert_no_mode, assert_same, build, images, step
from torch import nn

import fastgan
from fastgan.around import surroundings
from fastgan.fusion.deferred import is_waiting

NAMES = ["dcgan generator", "wgan-gp critic", "style critic", "sngan generator"]
everywhere = pytest.mark.parametrize("name", NAMES)


def pair(name):
    plain, net = CODEBASES[name].network(), CODEBASES[name].network()
    fastgan.accelerate(net)
    return plain, net


def saved_and_loaded(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@everywhere
@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded], ids=["deepcopy", "save"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen"])
def test_copies(name, copied, seen):
    """A copy works by itself: it trains as the original does, and restoring it leaves the original accelerated."""
    plain, net = pair(name)
    if seen:
        for each in (plain, net):
            each(*CODEBASES[name].inputs())
    other = copied(net)
    for i in range(2):
        inputs = CODEBASES[name].inputs(seed=i)
        expected = step(plain, *inputs)
        assert_same(step(other, *inputs), expected)
        assert_same(step(net, *inputs), expected)
    around = [len(surroundings(part)) for part in net.modules()]
    fastgan.restore(other)
    assert not any(surroundings(part) for part in other.modules())
    assert [len(surroundings(part)) for part in net.modules()] == around


def test_a_copy_is_fused_too():
    net = accelerated(build(Norm))
    other = copy.deepcopy(net)
    waited = []
    other.between = lambda h, net: waited.append(is_waiting(h))
    other(images())
    assert waited == [True]


def test_load_state_dict():
    for name in NAMES:
        plain, net = pair(name)
        source = CODEBASES[name].network(seed=5)
        net(*CODEBASES[name].inputs())
        net.load_state_dict(source.state_dict())
        plain.load_state_dict(source.state_dict())
        assert_same(step(net, *CODEBASES[name].inputs()), step(plain, *CODEBASES[name].inputs()))


@everywhere
def test_functional_call(name):
    plain, net = pair(name)
    inputs = CODEBASES[name].inputs()
    for i in range(3):
        other = {n: p.detach() * (1 + 0.1 * i) for n, p in plain.named_parameters()}
        ours, theirs = (torch.func.functional_call(each, other, inputs) for each in (net, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["wgan-gp critic", "style critic", "volume critic"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not seen"])
def test_torch_func(name, seen):
    plain, net = pair(name)
    inputs = CODEBASES[name].inputs()
    if seen:
        for each in (plain, net):
            each(*inputs)
    parameters = {n: p.detach() for n, p in plain.named_parameters()}
    results = []
    for each in (net, plain):

        def loss(parameters, x, each=each):
            return torch.func.functional_call(each, parameters, (x,)).square().sum()

        x = inputs[0]
        results.append([
            torch.func.grad(loss)(parameters, x),
            torch.func.vmap(torch.func.grad(lambda x: loss(parameters, x[None])))(x),
            torch.func.jvp(lambda x: loss(parameters, x), (x,), (torch.ones_like(x),))[1],
        ])  # fmt: skip
        assert_no_mode()
    assert_same(*results)
    assert_same(step(net, *inputs), step(plain, *inputs))


@everywhere
def test_trace(name):
    plain, net = pair(name)
    inputs = CODEBASES[name].inputs()
    plain.eval(), net.eval()
    net(*inputs)
    traced = torch.jit.trace(net, inputs)
    expected = plain(*inputs)
    torch.testing.assert_close(traced(*inputs), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(net(*inputs), expected, rtol=1e-10, atol=1e-10)


@everywhere
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.slow
def test_export(name, strict):
    plain, net = pair(name)
    inputs = CODEBASES[name].inputs()
    plain.eval(), net.eval()
    net(*inputs)
    exported = torch.export.export(net, inputs, strict=strict).module()
    torch.testing.assert_close(exported(*inputs), plain(*inputs), rtol=1e-10, atol=1e-10)


@everywhere
@pytest.mark.slow
def test_compiled_behind_it(name):
    plain, net = pair(name)
    inputs = CODEBASES[name].inputs()
    for each in (plain, net):
        each(*inputs)
    compiled = torch.compile(net, backend="aot_eager")
    for i in range(2):
        inputs = CODEBASES[name].inputs(seed=i)
        assert_same(step(net, *inputs, call=compiled), step(plain, *inputs))
    assert_same(step(net, *inputs), step(plain, *inputs))


@everywhere
@pytest.mark.slow
@pytest.mark.parametrize("way", ["torch.compile", "Module.compile", "a part"])
def test_compiled_before_it(name, way):
    plain, net = CODEBASES[name].network(), CODEBASES[name].network()
    root = net
    if way == "torch.compile":
        root = torch.compile(net, backend="aot_eager")
    elif way == "Module.compile":
        net.compile(backend="aot_eager")
    else:
        next(net.children()).compile(backend="aot_eager")
    report = fastgan.accelerate(root)
    assert [row.reason for row in report.rows[0] if row.found == "torch.compile"] == ["calls are fused by the compiler"]
    for i in range(2):
        inputs = CODEBASES[name].inputs(seed=i)
        assert_same(step(net, *inputs, call=root), step(plain, *inputs))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["between", "around the second call"])
def test_compiled_function_in_the_forward(when):
    """It is called while calls are deferred, and gets what waits."""
    function = torch.compile(lambda h: h * h.sigmoid(), backend="aot_eager")

    class Calling(Up):
        def forward(self, x):
            h = self.first(x)
            if when == "between":
                return self.second(h if self.between is None else function(h))
            return (
                self.second(h).sum() if self.between is None else torch.compile(self.conv, backend="aot_eager")(h).sum()
            )

    plain = build(Calling)
    net = accelerated(plain)
    for each in (plain, net):
        each.between = True
    for i in range(2):
        assert_same(step(net, images(seed=i)), step(plain, images(seed=i)))
        assert_no_mode()


def test_scripted_part():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.script = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return F.relu(self.norm(self.script(F.interpolate(x, scale_factor=2))))

    net, plain = build(Part), build(Part)
    fastgan.accelerate(net)
    for i in range(3):
        assert_same(step(net, images(seed=i)), step(plain, images(seed=i)))


def test_moved_to_another_dtype():
    for name in NAMES:
        plain, net = pair(name)
        inputs = CODEBASES[name].inputs()
        for each in (plain, net):
            each(*inputs)
            each.float()
        x = inputs[0].float()
        torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-5)


def test_meta_device():
    """Shapes without values."""
    for name in NAMES:
        net = pair(name)[1].to("meta")
        shapes = [net(CODEBASES[name].inputs()[0].to("meta")).shape for _ in range(2)]
        assert shapes[0] == shapes[1] == CODEBASES[name].network()(*CODEBASES[name].inputs()).shape


def test_default_device_and_modes_of_others():
    with torch.device("cpu"):
        plain, net = build(Norm), build(Norm)
        fastgan.accelerate(net)
        assert_same([step(net, images(seed=i)) for i in range(3)], [step(plain, images(seed=i)) for i in range(3)])


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    script = Path(__file__).with_name("distributed_steps.py")
    store = tmp_path / "store"
    ranks = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(store)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("options", [{}, {"record_shapes": True}, {"profile_memory": True, "with_stack": True}])
@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_profilers(make, options):
    """A profiler that records shapes has weak references to tensors: none can be swapped."""

    def between(h, net):
        h = h + h.detach().sin()
        return h * h.shape[0]

    plain, net = build(make), build(make)
    fastgan.accelerate(net)
    # Fused, and then, in a forward that was another, not.
    for i, what in enumerate([None, None, between, between]):
        net.between = plain.between = what
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], **options):
            ours = step(net, images(seed=i))
        assert_same(ours, step(plain, images(seed=i)))
