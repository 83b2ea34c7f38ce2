"""A grouped network computes what torch's layers compute: outputs, gradients, u and v after every step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook

from fastgan.nn.utils import group_spectral_norm, spectral_norm


def loss_of_two_forwards(model, x):
    return F.relu(1 - model(x)).mean() + F.relu(1 + model(x.flip(0) * 0.5)).mean()


def test_training_steps_with_two_forwards_before_one_backward(same, x):
    def script(model):
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        losses, states = [], []
        for _ in range(4):
            optimizer.zero_grad()
            loss = loss_of_two_forwards(model, x)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            states.append({key: value.clone() for key, value in model.state_dict().items()})
        return losses, states

    # Of five layers one has other settings: two calls per forward, whatever the number of layers.
    assert same(script) == [4, 1] * 8


def test_r1_through_the_critic(same, x):
    def script(model):
        real = x.clone().requires_grad_()
        scores = model(real)
        (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
        penalty = slope.square().sum((1, 2, 3)).mean()
        (F.softplus(-scores).mean() + 5 * penalty).backward()
        return scores, slope, penalty

    assert same(script) == [4, 1]


def test_eval_changes_nothing(same, x, style):
    def script(model):
        model(x)
        model.eval()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        outputs = [model(x) for _ in range(2)]
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        sum(outputs).sum().backward()
        return outputs

    # BigGAN does one iteration in eval mode, whatever the number in training.
    assert same(script) == [4, 1, *([5] if style == "BigGAN" else [4, 1]) * 2]


def test_layers_in_eval_mode_in_a_training_model_and_the_reverse(same, x, style):
    def script(model):
        model.body.eval()
        first = model(x)
        model.eval()
        model.head.train()
        second = model(x)
        (first + second).sum().backward()
        return first, second

    # To the op it is the same, where u is iterated in eval mode too.
    assert same(script) == ([4, 1, 4, 1] if style in ("BigGAN", "mimicry") else [2, 2, 1, 4, 1])


def test_a_layer_that_a_forward_does_not_use(same, x):
    def script(model):
        u_keys = [key for key in model.state_dict() if key.startswith("extra") and key.endswith(("_u", ".u0"))]
        before = model.state_dict()[u_keys[0]].clone()
        model(x).sum().backward()
        assert len(u_keys) == 1
        assert torch.equal(model.state_dict()[u_keys[0]], before)
        assert all(p.grad is None for p in model.extra.parameters())

    assert same(script) == [4, 1]


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_a_layer_used_several_times_in_one_forward(same, x, uses, style):
    def script(model):
        outputs = [model(x, extra_uses=uses) for _ in range(2)]
        sum(outputs).sum().backward()
        return outputs

    # torch computes the later uses of its own layers, fastgan's op those of ours.
    alone = [1] * (uses - 1) if style == "fastgan" else []
    assert same(script) == [4, 1, *alone] * 2


def test_submodules_and_weights_used_on_their_own(same, x):
    def script(model):
        outputs = [model.body(x).sum(), model(x).sum(), model.extra(torch.ones(1, 4)).sum(), model.head.weight.sum()]
        outputs.append(model(x, extra_uses=1).sum())
        sum(outputs).backward()
        return outputs

    same(script)


def test_frozen_layers_get_no_gradient(same, x):
    def script(model):
        model.body.requires_grad_(False)
        y = model(x)
        y.sum().backward()
        return y

    assert same(script) == [4, 1]


def test_a_network_without_gradients(same, x):
    def script(model):
        model.requires_grad_(False)
        y = model(x)
        assert not y.requires_grad
        return y

    same(script)


def tie(first, second):
    if hasattr(first, "parametrizations"):
        second.parametrizations.weight.original = first.parametrizations.weight.original
    elif hasattr(first, "weight_orig"):
        second.weight_orig = first.weight_orig
    else:
        second.weight = first.weight


class Tied(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.second = norm(nn.Linear(3, 3)), norm(nn.Linear(3, 3))
        tie(self.first, self.second)
        self.alias = self.first

    def forward(self, x):
        return self.second(self.first(x).relu())


def test_a_weight_tied_between_layers_and_a_layer_with_two_names(same, x):
    def script(model):
        outputs = [model(x[0, :, 0, :3]) for _ in range(2)]
        sum(outputs).sum().backward()
        return outputs

    assert same(script, Tied) == [2, 2]


def test_an_optimizer_step_between_forward_and_backward_is_refused_as_by_torch(same, x):
    def script(model):
        y = model(x)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
        # How far a backward comes before it fails is not compared.
        model.zero_grad()

    same(script)


def test_several_dtypes_are_several_calls(same):
    def make(norm):
        return nn.ModuleList(
            [norm(nn.Linear(4, 3)).to(dtype) for dtype in (torch.float64, torch.float32) for _ in "ab"]
        )

    class Mixed(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.layers = make(norm)

        def forward(self, x):
            return sum(layer(x.to(layer.bias.dtype)).double().sum() for layer in self.layers)

    def script(model):
        y = model(torch.ones(2, 4))
        y.backward()
        return y

    assert same(script, Mixed, tolerance=1e-5) == [2, 2]


@pytest.mark.parametrize("norm", [torch_hook, parametrizations.spectral_norm, spectral_norm])
def test_settings_changed_later_count(norm):
    plain, grouped = (nn.Sequential(norm(nn.Linear(4, 3))) for _ in "ab")
    grouped.load_state_dict(plain.state_dict())
    group_spectral_norm(grouped)
    for model in (plain, grouped):
        layer = model[0]
        settings = (
            layer.parametrizations.weight[0] if norm is not torch_hook else list(layer._forward_pre_hooks.values())[-1]
        )
        settings.n_power_iterations = 3
        model(torch.ones(1, 4))
    torch.testing.assert_close(grouped.state_dict(), plain.state_dict(), rtol=0, atol=1e-12)


def test_outputs_that_share_no_layer_need_retain_graph(style, x):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (torch_hook(nn.Linear(3, 3)) for _ in "ab")

        def forward(self, x):
            return self.first(x).sum(), self.second(x).sum()

    model = Two()
    group_spectral_norm(model)
    first, second = model(x[0, :, 0, :3])
    first.backward(retain_graph=True)
    second.backward()
    first, second = model(x[0, :, 0, :3])
    first.backward()
    with pytest.raises(RuntimeError, match="second time"):
        second.backward()
