"""Gradient penalties of critics as they come: memory formats, hooks, shared and frozen weights, labels."""

import pytest
import torch
import torch.nn.functional as F
from penalized import assert_same, check, critic_of, gradients, images, of_real, one_line, plain, relativistic
from torch import nn

from critics import CLASSES, ZOO, labels
from fastgan.penalty import R1, R2, WGANGP, penalized_loss


def test_channels_last():
    def build():
        return critic_of().to(memory_format=torch.channels_last)

    real, fake = (images(seed=i).to(memory_format=torch.channels_last) for i in (0, 1))
    check(build, real, fake)
    check(build, real, fake, penalties=[WGANGP(eps=torch.rand(4))], engine="linearized")


def test_module_hooks():
    def build():
        critic = critic_of()
        critic.seen = []
        critic[0].register_forward_hook(lambda module, args, out: critic.seen.append(out))
        critic[2].register_forward_hook(lambda module, args, out: 2 * out + 1)
        critic[3].register_forward_pre_hook(lambda module, args: (args[0] - 0.5,))
        return critic

    check(build)


def test_backward_hooks_of_modules():
    """torch wraps the layer in a function that cannot be looked into."""

    def build():
        critic = critic_of()
        critic[2].register_full_backward_hook(lambda module, grad_inputs, grad_outputs: (0.5 * grad_inputs[0],))
        return critic

    check(build, path="double_backward")


@pytest.mark.parametrize("at", ["tensor", "node"])
@pytest.mark.parametrize("middle", [F.relu, F.silu])
def test_hooks_of_activations(at, middle):
    """What a hook makes of gradients is unknown to a replay, and need not be tomorrow what it is today."""
    factor = 1.0

    def forward(self, x):
        h = F.leaky_relu(self.stem(x), 0.2)
        out = self.head(middle(h))
        if at == "tensor":
            h.register_hook(lambda g: factor * g)
        else:
            h.grad_fn.register_hook(lambda grads, _: tuple(g if g is None else factor * g for g in grads))
        return out

    critic, other = one_line(forward), one_line(forward)
    for factor in (1.0, 0.5):  # noqa: B007
        critic.zero_grad()
        other.zero_grad()
        out = penalized_loss(critic, images(), None, of_real, [R1()])
        out.loss.backward()
        plain(other, images(), None, of_real, [R1()])[0].backward()
        assert out.path == "double_backward"
        assert_same(gradients([critic]), gradients([other]))


def test_weights_shared_with_another_network():
    def run(function):
        critic = critic_of()
        generator = nn.Sequential(nn.ConvTranspose2d(6, 3, 3, 2, 1, 1), nn.Tanh()).double()
        generator[0].weight = critic[0].weight
        fake = generator(torch.linspace(-1, 1, 4 * 6 * 64, dtype=torch.float64).view(4, 6, 8, 8))
        total = function(critic, images(), fake.detach()) + fake.square().mean()
        total.backward()
        return gradients([critic])

    assert_same(
        run(lambda *args: penalized_loss(*args, relativistic, [R1(), R2()]).loss),
        run(lambda *args: plain(*args, relativistic, [R1(), R2()])[0]),
    )


def test_inputs_are_data():
    generator = nn.Linear(1, 1).double()
    real, fake = images().requires_grad_(), generator(images(seed=1).unsqueeze(-1)).squeeze(-1)
    penalized_loss(critic_of(), real, fake, relativistic, [R1(), R2(), WGANGP()]).loss.backward()
    assert real.grad is None
    assert generator.weight.grad is None


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
def test_nothing_requires_grad(engine):
    critic = critic_of().requires_grad_(False)
    out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], engine=engine)
    expected = plain(critic, images(), images(seed=1), relativistic, [R1()])
    torch.testing.assert_close(out.loss.detach(), expected[0].detach())


def test_some_parameters_require_grad():
    def build():
        critic = critic_of()
        critic[0].requires_grad_(False)
        critic[2].weight.requires_grad_(False)
        return critic

    check(build)


@pytest.mark.parametrize("name", ["biggan cifar, projection", "label map and projection", "one-hot planes"])
def test_labels(name):
    entry = ZOO[name]
    (y,) = labels(4)
    check(entry.critic, real_args=(y,), fake_args=((y + 2) % CLASSES,))
    given = {"real_args": (y,), "fake_args": ((y + 2) % CLASSES,)}
    check(entry.critic, penalties=[WGANGP(eps=torch.rand(4))], engine="linearized", **given)


def test_a_condition_with_a_gradient():
    """A live tensor among the arguments: its own network gets its gradient."""

    def run(penalized):
        critic = ZOO["conditioned on floats"].critic()
        mapping = nn.Linear(4, 4).double()
        nn.init.eye_(mapping.weight)
        c = mapping(torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4))
        kwargs = {"real_args": (c,), "fake_args": (c.detach(),)}
        if penalized:
            total = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], **kwargs).loss
        else:
            total = plain(critic, images(), images(seed=1), relativistic, [R1()], **kwargs)[0]
        total.backward()
        return gradients([critic, mapping])

    ours = run(True)
    assert "1.weight" in ours
    assert_same(ours, run(False))
