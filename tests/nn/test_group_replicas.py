"""Replicas of nn.DataParallel do what those of a plain network do: several at once, each in its thread."""

import pytest
import torch
from nn_critic import Critic
from replicas import data_parallel

import fastgan
from fastgan.nn.utils import group_spectral_norm


@pytest.mark.parametrize("group", [group_spectral_norm, fastgan.accelerate], ids=["grouped", "accelerated"])
@pytest.mark.parametrize("devices", [1, 2])
def test_replicas(group, devices, same, style, x, monkeypatch):
    """In training u and v are those that the first replica leaves, and gradients arrive at the original."""

    def script(model):
        model(x).sum().backward()
        seen = []
        for _ in range(2):
            y = data_parallel(monkeypatch, model, x, devices=devices, extra_uses=2)
            y.square().sum().backward()
            seen += [y, model(x)]
        model.eval()
        with torch.no_grad():
            seen.append(data_parallel(monkeypatch, model, x, devices=devices))
        return [*seen, model(x)]

    same(script, Critic, group)


def test_a_second_derivative_through_replicas(same, style, x, monkeypatch):
    def script(model):
        for _ in range(2):
            images = x.clone().requires_grad_()
            y = data_parallel(monkeypatch, model, images)
            (gradient,) = torch.autograd.grad(y.sum(), images, create_graph=True)
            gradient.square().sum().backward()
        return gradient

    same(script, Critic, fastgan.accelerate, 1e-11)


def test_more_replicas_than_the_row_says(monkeypatch, x):
    model = Critic(torch.nn.utils.spectral_norm)
    report = fastgan.accelerate(model)
    for _ in range(2):
        data_parallel(monkeypatch, model, x)
    rows = [row for row in report.to_dict()["networks"][0]["rows"] if "replica" in row["found"]]
    assert rows == [
        {
            "path": "",
            "found": "a replica of nn.DataParallel",
            "runs": "as it is",
            "reason": "replicas are not accelerated; the processes of DistributedDataParallel are",
        }
    ]
