"""Grouped networks under the parts of torch that look into modules: compile, export, autocast, functional_call, DDP."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nn_mixins import biggan, mimicry
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook

from fastgan.around import surroundings
from fastgan.nn.utils import group_spectral_norm, ungroup_spectral_norm


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Small(nn.Module):
    """A layer with its rows along dimension 1, and a layer that is used twice."""

    def __init__(self, norm):
        super().__init__()
        self.first = norm(nn.ConvTranspose1d(3, 4, 2))
        self.second = norm(nn.Linear(4, 4))
        self.between = lambda: None

    def forward(self, x):
        x = self.first(x).mean(2)
        self.between()
        return self.second(self.second(x).tanh())


def two_steps(run, model):
    """Two steps of two forwards each, then evaluation."""
    x = torch.linspace(-1, 1, 12).view(2, 3, 2)
    outputs = []
    for _ in range(2):
        loss = run(x).square().sum() + run(x * 2).sum()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.01 * p.grad)
        outputs.append(loss.detach())
    model.eval()
    return [*outputs, run(x).detach()]


def is_grouped(model):
    return bool(surroundings(model))


@pytest.mark.slow
@pytest.mark.parametrize("between", [lambda: None, torch._dynamo.graph_break], ids=["whole", "broken"])
def test_compile(same, between, fresh_dynamo):
    def script(model):
        model.between = between
        # The plain network runs eagerly: eager torch is what the compiled group is compared with.
        fullgraph = between is not torch._dynamo.graph_break
        compiled = torch.compile(model, fullgraph=fullgraph, backend="aot_eager") if is_grouped(model) else model
        return two_steps(compiled, model)

    same(script, Small)


@pytest.mark.slow
def test_a_compiled_part_of_a_grouped_network(same, fresh_dynamo):
    def script(model):
        if is_grouped(model):
            model.second.compile(backend="aot_eager")
        return two_steps(model, model)

    same(script, Small)


def test_a_compiled_network_is_looked_through(op_calls):
    model = nn.Sequential(torch_hook(nn.Linear(3, 3)))
    assert len(group_spectral_norm(torch.compile(model)).grouped) == 1
    assert is_grouped(model)
    ungroup_spectral_norm(torch.compile(model))
    assert not is_grouped(model)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_export_in_eval_mode(same, strict, fresh_dynamo):
    x = torch.ones(2, 3, 2)

    def script(model):
        model(x)
        model.eval()
        return torch.export.export(model, (x,), strict=strict).module()(x) if is_grouped(model) else model(x)

    same(script, Small)


@pytest.mark.slow
def test_export_holds_one_call(x, fresh_dynamo):
    model = nn.Sequential(*(parametrizations.spectral_norm(nn.Linear(3, 3)) for _ in range(3))).eval()
    group_spectral_norm(model)
    program = torch.export.export(model, (torch.ones(1, 3),))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("fastgan.spectral_norm.default") == 1


@pytest.mark.parametrize("style", ["torch hook", "torch parametrization", "fastgan"])
def test_autocast(same, x):
    def script(model):
        model.float()
        seen = []
        model.body.register_forward_hook(
            lambda module, args, output: seen.append((module[0].weight.dtype, output.dtype))
        )
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x.float())
        assert seen == [(torch.float32, torch.bfloat16)]
        y.sum().backward()
        return y

    # The weights agree to float32's rounding, which may tip their rounding to bfloat16.
    same(script, tolerance=2e-2)


@pytest.mark.parametrize("norm", [biggan, mimicry])
def test_autocast_does_not_round_what_a_mixin_computes(norm):
    """Its matmuls round u, v and sigma to bfloat16; the group's weights are those of a run without autocast."""
    plain, grouped, rounded = (nn.Sequential(norm(nn.Linear(40, 30))).float() for _ in "abc")
    grouped.load_state_dict(plain.state_dict())
    rounded.load_state_dict(plain.state_dict())
    group_spectral_norm(grouped)
    x = torch.ones(1, 40, dtype=torch.float32)
    plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert grouped(x).dtype == rounded(x).dtype == torch.bfloat16
    torch.testing.assert_close(grouped.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rounded.state_dict(), plain.state_dict(), rtol=2e-2, atol=2e-2)


def test_functional_call(same, x):
    def script(model):
        parameters = {name: p.detach() * 2 for name, p in model.named_parameters()}
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        y = torch.func.functional_call(model, (parameters, buffers), (x,))
        return y, buffers, model(x)

    assert same(script) == [4, 1] * 2


def test_func_grad(same, x):
    def script(model):
        model.eval()
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        return torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).sum())(parameters)

    same(script)


def test_half_precision_and_back(same, x):
    def script(model):
        outputs = []
        for dtype in (torch.float32, torch.float64):
            model.to(dtype)
            outputs.append(model(x.to(dtype)).double())
        return outputs

    assert same(script, tolerance=1e-5) == [4, 1] * 2


def test_data_parallel_is_looked_through(op_calls):
    model = nn.Sequential(torch_hook(nn.Linear(3, 3)))
    group_spectral_norm(nn.DataParallel(model))
    assert nn.DataParallel(model)(torch.ones(1, 3)).shape == (1, 3)
    assert op_calls == [1]


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    script = Path(__file__).with_name("distributed_steps.py")
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path / "store"], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
