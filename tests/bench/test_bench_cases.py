"""The case table against what is published about the networks."""

import pytest
import torch

from fastgan.bench.cases import BIGGAN_128, CRITICS, SNGAN_128, SNGAN_CIFAR, Layer
from fastgan.bench.layers import blocks
from fastgan.bench.ops.spectral_norm import Critic
from fastgan.bench.registry import OPS, SUITES
from fastgan.train.models import BLOCKS


@pytest.mark.parametrize(
    ("case", "layers", "weights"),
    [(SNGAN_CIFAR, 11, 1_052_544), (SNGAN_128, 18, 29_010_816), (BIGGAN_128, 23, 87_970_368)],
)
def test_size(case, layers, weights):
    assert (len(case.layers), case.weights) == (layers, weights)


def test_cifar_critic_is_the_one_that_is_trained():
    train = pytest.importorskip("fastgan.train.models")
    trained = [tuple(p.shape) for p in train.Discriminator(width=128, channels=3).parameters() if p.ndim > 1]
    assert sorted(trained) == sorted(layer.shape for layer in SNGAN_CIFAR.layers)


def test_names_are_unique():
    assert len({case.name for case in CRITICS}) == len(CRITICS)
    assert len(OPS) == sum(map(len, SUITES.values()))
    assert not {*SUITES} & {name for op in OPS.values() for name in (op.name, *op.cases)}


@pytest.mark.parametrize(
    "layer", [Layer("conv2d", (4, 3, 3, 3)), Layer("linear", (5, 4)), Layer("embedding", (7, 2))], ids=lambda x: x.kind
)
def test_critic_builds_the_module_of_the_layer(layer):
    weight = torch.randn(layer.shape)
    critic = Critic([(layer, weight)])
    assert type(critic.layers[0]).__name__.lower() == layer.kind
    assert critic()[0].equal(weight)
    assert critic()[0] is not weight


def test_matrix():
    assert Layer("conv2d", (4, 3, 5, 5)).matrix == (4, 75)


@pytest.mark.parametrize("case", blocks.CASES.values(), ids=blocks.CASES)
def test_blocks_of_both_sides_have_the_same_parameters(case):
    fused, plain = (
        {
            key: value.shape
            for key, value in getattr(BLOCKS[side], case.block)(case.c_in, case.c_out).state_dict().items()
        }
        for side in ("fused", "torch")
    )
    assert fused == plain
