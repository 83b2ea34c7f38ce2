"""When a critic is proved, and what is refused."""

import functools
import re

import pytest
import torch
import torch.nn.functional as F
from penalized import assert_same, check, critic_of, gradients, images, of_real, one_line, plain
from torch import nn

from critics import ZOO
from fastgan import functional
from fastgan.penalty import R1, R2, penalized_loss, proof


def proofs(monkeypatch):
    """A list that grows with every proof."""
    made, prove = [], proof._prove
    monkeypatch.setattr(proof, "_prove", lambda forward: made.append(forward.tape.operations) or prove(forward))
    return made


def test_check(monkeypatch):
    made = proofs(monkeypatch)
    critic = critic_of()
    for i, (kind, expected) in enumerate([("never", 0), ("first", 1), ("first", 1), ("always", 2), ("always", 3)]):
        penalized_loss(critic, images(seed=i), None, of_real, [R1()], check=kind)
        assert len(made) == expected


WRAPPERS = {
    "lambda": lambda critic: lambda x: critic(x),
    "partial": lambda critic: functools.partial(critic),
    "method": lambda critic: critic.forward,
    "unhashable": lambda critic: Unhashable(critic),
    "slots": lambda critic: Slotted(critic),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_proved_once_for_a_critic_made_anew(monkeypatch, wrap):
    made, critic = proofs(monkeypatch), critic_of()
    for _ in range(3):
        out = penalized_loss(wrap(critic), images(), None, of_real, [R1()])
        assert out.path == "linearized"
    assert len(made) == 1


class Unhashable:
    __hash__ = None

    def __init__(self, critic):
        self.critic = critic

    def __eq__(self, other):
        return self is other

    def __call__(self, x):
        return self.critic(x)


class Slotted:
    __slots__ = ("critic",)

    def __init__(self, critic):
        self.critic = critic

    def __call__(self, x):
        return self.critic(x)


def test_a_float_that_changes_is_proved_once(monkeypatch):
    """The factor of a progressively grown critic."""
    made, alpha = proofs(monkeypatch), [0.0]
    critic = one_line(lambda self, x: self.head(torch.lerp(self.stem(x), self.stem(x).relu(), alpha[0]) * alpha[0]))
    for alpha[0] in (0.0, 0.25, 0.5):
        penalized_loss(critic, images(), None, of_real, [R1()])
    assert len(made) == 1


NOT_PIECEWISE_LINEAR = [name for name, entry in ZOO.items() if entry.piecewise_linear is False]


@pytest.mark.parametrize("name", NOT_PIECEWISE_LINEAR)
def test_linearized_refuses(name):
    entry = ZOO[name]
    # An autograd.Function is named; torch does not say where it was called.
    line = "" if name in ("autograd function", "reentrant checkpoint") else r" \(\w+\.py:\d+\)"
    with pytest.raises(RuntimeError, match=rf'engine="linearized" cannot serve this critic: \w+.*{line}$'):
        penalized_loss(
            entry.critic(), entry.images(), None, of_real, [R1()], real_args=entry.args(4), engine="linearized"
        )


def as_weight_of(name, dims):
    """A convolution of which an activation is the weight."""

    def convolve(h):
        weight = h.flatten(1)[:, :1].reshape(-1, 1, *[1] * dims)
        channels = len(h) if "transpose" in name else 1
        return getattr(functional, name)(torch.ones(1, channels, *[4] * dims).to(h), weight)

    return convolve


NOT_LINEAR = {
    "bias_act": lambda h: functional.bias_act(h, act="swish"),
    "scale_shift_act": lambda h: functional.scale_shift_act(h, None, None, act="swish"),
    "norm_act": lambda h: functional.norm_act(h, norm="instance"),
    "pixel_shuffle_act": lambda h: functional.pixel_shuffle_act(torch.cat([h] * 4, 1), act="swish"),
    "sigmoid": torch.sigmoid,
    **{
        f"{name}{dims}d": as_weight_of(f"{name}{dims}d", dims)
        for name in ("conv", "conv_transpose", "upsample_conv", "conv_downsample")
        for dims in (1, 2, 3)
    },
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_the_line_named_is_the_users(name):
    """Not one of fastgan's own, through which the call went."""

    def forward(self, x):
        h = self.stem(x)
        return self.head(h) + NOT_LINEAR[name](h).mean()

    critic = one_line(forward)
    reason = penalized_loss(critic, images(), None, of_real, [R1()]).reason
    assert re.search(r" \(test_proofs\.py:\d+\)", reason), reason


def test_indices_into_the_batch():
    """A permutation that happens to be the identity in the first step."""
    order = torch.arange(4)
    critic = one_line(lambda self, x: self.head(F.relu(self.stem(x))[order]))
    other = one_line(lambda self, x: self.head(F.relu(self.stem(x))[order]))
    weights = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)

    for order in (torch.arange(4), torch.tensor([2, 0, 1, 3])):  # noqa: B007
        for model in (critic, other):
            model.zero_grad()
        out = penalized_loss(critic, images(), None, lambda r, f: (weights * F.softplus(-r[:, 0])).mean(), [R1()])
        out.loss.backward()
        assert out.path != "linearized"
        plain(other, images(), None, lambda r, f: (weights * F.softplus(-r[:, 0])).mean(), [R1()])[0].backward()
        assert_same(gradients([critic]), gradients([other]))


def test_a_buffer_that_every_forward_writes():
    """The next call of the critic changes a constant of the last."""

    def forward(self, x):
        self.noise.copy_(x.detach().abs().mean())
        return self.head(F.relu(self.stem(x) + self.noise))

    def build():
        critic = one_line(forward)
        critic.register_buffer("noise", torch.zeros(1, 6, 8, 8, dtype=torch.float64))
        return critic

    out = check(build, path="double_backward")
    assert "changed in place" in out.reason
    check(build, adversarial=None, penalties=[R2()], engine="linearized")


def test_weight_and_bias_of_one_parameter():
    """And a hook on what is made of it."""

    def forward(self, x):
        weight = 2 * self.w.exp()
        weight.register_hook(lambda g: 0.5 * g)
        return F.relu(F.linear(x.flatten(1), self.w, self.w.exp().sum(1)) - F.linear(x.flatten(1), weight)).sum(1)

    def build():
        critic = one_line(forward)
        critic.w = nn.Parameter(torch.randn(8, 768, dtype=torch.float64) / 28)
        return critic

    check(build, check="never")
    check(build)


def test_tied_weights():
    def forward(self, x):
        h = F.relu(F.linear(x.flatten(1), self.w * self.gain))
        h = h + F.linear(F.linear(h, self.w.t()), self.w * self.gain.exp()) + self.w.sum(1)
        return h.sum(1)

    def build():
        critic = one_line(forward)
        critic.w = nn.Parameter(torch.randn(8, 768, dtype=torch.float64) / 28)
        critic.gain = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        return critic

    check(build)
