import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgan.nn.utils import group_spectral_norm
from fastgan.optim import ema_update, warmed_up_decay


def network():
    return nn.Sequential(spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 1))


@pytest.mark.parametrize("grouped", [False, True])
def test_parameters_are_averaged_and_buffers_copied(grouped):
    model = network()
    if grouped:
        group_spectral_norm(model)
    ema = copy.deepcopy(model).requires_grad_(False)
    for p in model.parameters():
        p.data.normal_()
    before = {name: p.clone() for name, p in ema.named_parameters()}
    model(torch.randn(2, 3, 8, 8))  # moves u, v, and the batch norm's statistics and count
    ema_update(ema, model, 0.9)
    for (name, p), new in zip(ema.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, 0.9 * before[name] + 0.1 * new)
    for (name, b), new in zip(ema.named_buffers(), model.named_buffers(), strict=True):
        assert torch.equal(b, new[1]), name
        assert b.data_ptr() != new[1].data_ptr()
    assert ema[1].num_batches_tracked == 1


@pytest.mark.parametrize(("decay", "source"), [(0, "model"), (1, "ema")])
def test_extreme_decays(decay, source):
    networks = {"ema": nn.Linear(3, 2), "model": nn.Linear(3, 2)}
    expected = networks[source].weight.detach().clone()
    ema_update(networks["ema"], networks["model"], decay)
    assert torch.equal(networks["ema"].weight, expected)


def test_a_network_without_parameters_or_buffers():
    ema_update(nn.ReLU(), nn.ReLU(), 0.5)


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_bad_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay must be (from 0 to 1|finite), got"):
        ema_update(nn.Linear(1, 1), nn.Linear(1, 1), decay)


@pytest.mark.parametrize(
    ("ema", "model", "message"),
    [
        (nn.Linear(1, 1), nn.Linear(1, 1, bias=False), "parameter 'bias' is in ema only: expected equal structures"),
        (nn.BatchNorm1d(1, track_running_stats=False), nn.BatchNorm1d(1), "buffer '.*' is in model only"),
        (nn.Linear(2, 1), nn.Linear(1, 1), r"parameter 'weight' has shape \[1, 2\] in ema, \[1, 1\] in model"),
    ],
)
def test_different_networks_are_refused(ema, model, message):
    with pytest.raises(ValueError, match=message):
        ema_update(ema, model, 0.5)


# --- half precision ---


HALF = [torch.bfloat16, torch.float16]


def moved_away(dtype):
    """A network in `dtype`, and its state before it moved away from there."""
    torch.manual_seed(0)
    net = nn.Linear(64, 64).to(dtype)
    start = copy.deepcopy(net)
    with torch.no_grad():
        net.weight.add_(torch.randn_like(net.weight) * 0.02)
    return net, start


def share_moved(ema, net, start, updates=1000, **options):
    """How far `updates` with decay 0.999 bring the average, as a part of how far they should."""
    for _ in range(updates):
        ema_update(ema, net, 0.999, **options)
    way = (net.weight.double() - start.weight.double()) * (1 - 0.999**updates)
    return (((ema.weight.double() - start.weight.double()) * way).sum() / way.square().sum()).item()


@pytest.mark.parametrize("dtype", HALF)
def test_a_float32_average_of_a_half_network(dtype):
    net, start = moved_away(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert share_moved(copy.deepcopy(start).float(), net, start) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", HALF)
def test_an_average_in_half_precision_warns_once(dtype):
    net, start = moved_away(dtype)
    with pytest.warns(UserWarning, match=f"ema is {dtype}, in which an average hardly moves") as seen:
        assert share_moved(copy.deepcopy(start), net, start) < 0.9
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        share_moved(copy.deepcopy(start), net, start, updates=3)
    assert len(seen) == 1
    assert seen[0].filename == __file__


@pytest.mark.parametrize("dtype", HALF)
def test_an_average_in_half_precision_is_silent_where_nothing_is_lost(dtype):
    net, start = moved_away(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ema_update(start, net, 1)
        ema_update(start, net, 0)
    assert torch.equal(start.weight, net.weight)


@pytest.mark.parametrize("dtype", HALF)
def test_stochastic_rounding_moves_as_it_should(dtype):
    net, start = moved_away(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        share = share_moved(
            copy.deepcopy(start), net, start, stochastic_rounding=True, generator=torch.Generator().manual_seed(0)
        )
    # 1,000 roundings by at most 2^-11 (|w| < 1/4, bfloat16), over 4,096 weights that move by 0.02: six deviations.
    assert share == pytest.approx(1, abs=6 * 2**-11 * (1000 / 4 / 4096) ** 0.5 / (0.02 * 0.63))


class OneTensor(nn.Module):
    def __init__(self, x):
        super().__init__()
        self.x = nn.Parameter(x)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("place", ["normal", "subnormal", "largest", "power"])
def test_stochastic_rounding_takes_both_neighbours_in_proportion(dtype, sign, place):
    limits = torch.finfo(dtype)
    low = {
        "normal": 1.25,
        "subnormal": 3 * limits.smallest_normal * limits.eps,
        "largest": limits.max * (1 - limits.eps / 2),
        "power": 1.0,
    }[place]
    low = torch.tensor(sign * low, dtype=dtype)
    high = torch.nextafter(low.float(), low.float() * math.inf)
    while high.to(dtype) == low:  # the next value of the dtype, from the next of float32
        high = low.float() + 2 * (high - low.float())
    high, count, share = high.to(dtype), 4096, 0.25
    ema, model = (OneTensor(value.repeat(count)) for value in (low, high))
    ema_update(ema, model, 1 - share, stochastic_rounding=True, generator=torch.Generator().manual_seed(1))
    ups = int((ema.x == high).sum())
    assert int((ema.x == low).sum()) + ups == count
    assert abs(ups / count - share) < 6 * (share * (1 - share) / count) ** 0.5


@pytest.mark.parametrize("dtype", HALF)
def test_stochastic_rounding_keeps_what_is_exact(dtype):
    limits = torch.finfo(dtype)
    x = torch.tensor([0.0, -0.0, 1.0, -limits.max, limits.max, limits.smallest_normal, 7 * limits.eps], dtype=dtype)
    strange = torch.tensor([math.inf, -math.inf, math.nan], dtype=dtype)
    ema, model = OneTensor(torch.cat([x, strange]).repeat(100)), OneTensor(torch.cat([x, strange]).repeat(100))
    ema_update(ema, model, 0.999, stochastic_rounding=True)
    found = ema.x.view(100, -1)
    assert torch.equal(found[:, : len(x)], x.expand(100, -1))
    assert not found[:, len(x) :].isfinite().any()


def test_float32_is_not_rounded_at_random():
    net, start = moved_away(torch.float32)
    ours = copy.deepcopy(start)
    ema_update(ours, net, 0.9, stochastic_rounding=True)
    ema_update(start, net, 0.9)
    assert torch.equal(ours.weight, start.weight)


def test_less_exact_averages_are_refused():
    for ema, model in ((torch.bfloat16, torch.float32), (torch.bfloat16, torch.float16)):
        with pytest.raises(ValueError, match=rf"'weight' is {ema} on cpu in ema, {model} on cpu in model: expected"):
            ema_update(nn.Linear(1, 1).to(ema), nn.Linear(1, 1).to(model), 0.5)
    with pytest.raises(ValueError, match="generator is used by stochastic_rounding=True alone"):
        ema_update(nn.ReLU(), nn.ReLU(), 0.5, generator=torch.Generator())


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_buffers_of_a_half_network_in_a_float32_average(buffers):
    model = network()
    model[1].running_mean.fill_(0.3)
    model[1].num_batches_tracked.fill_(2**40 + 1)
    model.bfloat16()
    ema = copy.deepcopy(model).float()
    model[1].running_mean.mul_(2)
    before, new = ema[1].running_mean.clone(), model[1].running_mean.float()
    ema_update(ema, model, 0.75, buffers=buffers)
    assert torch.equal(ema[1].running_mean, new if buffers == "copy" else before.lerp(new, 0.25))
    assert ema[1].num_batches_tracked == 2**40 + 1


# --- layouts, shared weights, warm-up ---


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight


def test_tied_weights_are_averaged_once():
    ema, model = Tied(), Tied()
    expected = ema.a.weight.detach().lerp(model.a.weight.detach(), 0.1)
    ema_update(ema, model, 0.9)
    assert torch.equal(ema.a.weight, expected)
    assert ema.b.weight is ema.a.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stochastic", [False, True])
def test_layouts_may_differ(dtype, stochastic):
    model = nn.Conv2d(4, 6, 3).to(dtype)
    ema = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.weight.copy_(torch.arange(216.0).view_as(model.weight))
        ema.weight.zero_()
    ema_update(ema, model, 0.5 if stochastic else 0, stochastic_rounding=stochastic)
    expected = model.weight / 2 if stochastic else model.weight
    assert torch.equal(ema.weight, expected)
    assert ema.weight.is_contiguous(memory_format=torch.channels_last)


def test_warm_up_is_the_formula():
    assert [warmed_up_decay(0.9999, t) for t in (0, 1, 90)] == [1 / 10, 2 / 11, 91 / 100]
    assert warmed_up_decay(0.5, 7) == 8 / 17
    assert warmed_up_decay(0.5, 8) == warmed_up_decay(0.5, 10**9) == 0.5
    assert warmed_up_decay(0.9999, 89_989) < 0.9999 == warmed_up_decay(0.9999, 89_990)
    with pytest.raises(ValueError, match="updates must be 0 or more, got -1"):
        warmed_up_decay(0.5, -1)
    with pytest.raises(ValueError, match="decay must be from 0 to 1, got 2"):
        warmed_up_decay(2, 0)


def test_warm_up_forgets_the_start():
    """After 1,000 updates the random start weighs less than 1e-20 of it; without a warm-up, 0.9."""
    ema, model = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        ema.weight.fill_(1e20)
        model.weight.fill_(1.0)
    for t in range(1000):
        ema_update(ema.double(), model.double(), warmed_up_decay(0.9999, t))
    assert ema.weight.item() == pytest.approx(1, abs=0.1)
