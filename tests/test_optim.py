"""fastgan.optim against the loops that it takes the place of. Averages of whole networks are in train/test_ema.py."""

import copy

import pytest
import torch
from nn_mixins import biggan
from torch import nn

from fastgan.optim import clean_gradients, ema_update

INF, NAN = float("inf"), float("nan")


def network():
    """Parameters of two dtypes; buffers of spectral norm, of batch norm, and of integers."""
    return nn.Sequential(biggan(nn.Linear(5, 4)), nn.BatchNorm1d(4), nn.Linear(4, 3).double())


@pytest.fixture
def pair():
    torch.manual_seed(0)
    model = network()
    ema = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    model[:2](torch.randn(6, 5))
    return ema, model


def loop(ema, model, move, names):
    """The state that a loop over these names leaves."""
    state, new = copy.deepcopy(ema).state_dict(), model.state_dict()
    with torch.no_grad():
        for name in names:
            state[name].copy_(move(state[name], new[name]))
    return state


def assert_equal(ema, expected):
    for name, value in ema.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("decay", [0, 0.3, 0.5, 0.999, 1])
def test_parameters_are_those_of_a_loop_of_lerp(pair, decay):
    ema, model = pair
    expected = loop(ema, model, lambda old, new: old.lerp(new, 1 - decay), dict(ema.named_parameters()))
    ema_update(ema, model, decay, buffers="keep")
    assert_equal(ema, expected)


LOOPS = {
    "stylegan": lambda old, new: new.lerp(old, 0.999),
    "rosinality": lambda old, new: old.mul(0.999).add_(new, alpha=1 - 0.999),
    "biggan": lambda old, new: old * 0.999 + new * (1 - 0.999),
}


@pytest.mark.parametrize("codebase", LOOPS)
def test_codebases_loops_to_rounding(pair, codebase):
    ema, model = pair
    expected = loop(ema, model, LOOPS[codebase], dict(ema.named_parameters()))
    ema_update(ema, model, 0.999, buffers="keep")
    torch.testing.assert_close(dict(ema.state_dict()), expected, rtol=0, atol=2e-6)


def test_averaged_buffers(pair):
    ema, model = pair
    names = [name for name, value in ema.state_dict().items() if value.is_floating_point()]
    assert {"0.u0", "0.sv0", "1.running_mean"} < set(names)
    expected = loop(ema, model, lambda old, new: old.lerp(new, 1 - 0.9), names)
    expected["1.num_batches_tracked"] = torch.tensor(1)
    ema_update(ema, model, 0.9, buffers="average")
    assert_equal(ema, expected)


def test_copied_and_kept_buffers(pair):
    ema, model = pair
    before = {name: b.clone() for name, b in ema.named_buffers()}
    ema_update(ema, model, 0.9, buffers="keep")
    assert all(torch.equal(b, before[name]) for name, b in ema.named_buffers())
    ema_update(ema, model, 0.9, buffers="copy")
    assert all(torch.equal(b, dict(model.named_buffers())[name]) for name, b in ema.named_buffers())
    assert not any(torch.equal(b, before[name]) for name, b in ema.named_buffers())


def test_names_decide_not_the_order():
    ema, model = nn.Module(), nn.Module()
    for module, names in ((ema, "ab"), (model, "ba")):
        for name in names:
            module.register_parameter(name, nn.Parameter(torch.full((2,), float(ord(name)))))
    ema_update(ema, model, 0.5)
    assert ema.a[0] == ord("a")
    assert ema.b[0] == ord("b")


def test_what_does_not_match_is_refused():
    with pytest.raises(ValueError, match="buffers must be one of copy, average, keep, got str 'mean'"):
        ema_update(nn.ReLU(), nn.ReLU(), 0.5, buffers="mean")
    with pytest.raises(ValueError, match=r"'weight' is torch.float32 on cpu in ema, torch.float64 on cpu in model"):
        ema_update(nn.Linear(1, 1), nn.Linear(1, 1).double(), 0.5)
    with pytest.raises(ValueError, match=r"'weight' is torch.float32 on meta in ema, torch.float32 on cpu in model"):
        ema_update(nn.Linear(1, 1).to("meta"), nn.Linear(1, 1), 0.5)


# --- gradients ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", ["module", "list", "generator"])
def test_gradients_are_those_of_a_loop_of_nan_to_num(dtype, given):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4).to(dtype), nn.Linear(4, 1).requires_grad_(False))
    values = torch.tensor([NAN, INF, -INF, 2e5, -0.0, 1.5, -3.0])
    for p in model.parameters():
        if p.requires_grad:
            p.grad = values.repeat(3)[: p.numel()].view_as(p).to(p.dtype)
    largest = {torch.float16: 65504.0}
    expected = [
        p.grad.nan_to_num(0.5, largest.get(p.dtype, 1e5), -largest.get(p.dtype, 1e5))
        for p in model.parameters()
        if p.grad is not None
    ]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    clean_gradients(
        {"module": model, "list": list(model.parameters()), "generator": model.parameters()}[given], nan=0.5
    )
    assert len(grads) == 4
    for p, grad, value in zip(model.parameters(), grads, expected, strict=False):
        assert p.grad is grad
        assert torch.equal(grad, value)
        assert grad.isfinite().all()


def test_defaults_are_stylegans():
    p = nn.Parameter(torch.zeros(4))
    p.grad = torch.tensor([NAN, INF, -INF, 2e5])
    clean_gradients([p])
    assert p.grad.tolist() == [0, 1e5, -1e5, 2e5]


def test_strided_and_empty_gradients():
    first, empty = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(0, 2))
    first.grad, empty.grad = torch.full((2, 3), NAN).t(), torch.zeros(0, 2)
    clean_gradients([first, empty])
    assert torch.equal(first.grad, torch.zeros(3, 2))
    assert first.grad.stride() == (1, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_few_kernels_do_it():
    params = [nn.Parameter(torch.zeros(n, 3, device="cuda")) for n in range(1, 40)]
    for p in params:
        p.grad = torch.full_like(p, NAN)
    clean_gradients(params)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        clean_gradients(params)
        torch.cuda.synchronize()
    assert sum(event.count for event in profile.key_averages()) < len(params)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in params)


def test_what_cannot_be_cleaned_is_refused():
    with pytest.raises(ValueError, match="posinf must be finite, got inf"):
        clean_gradients([], posinf=INF)
    with pytest.raises(TypeError, match="must be a module or parameters, got int 3 at 0"):
        clean_gradients([3])
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match=r"must have dense gradients, got a torch\.sparse_coo one at 0"):
        clean_gradients(embedding)
