import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgan.nn.utils import group_spectral_norm
from fastgan.optim import ema_update


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
    with pytest.raises(ValueError, match=f"decay = {decay}: expected a number from 0 to 1"):
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
