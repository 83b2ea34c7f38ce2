"""Gradient penalties with adversarial losses of all kinds, and what penalties may be."""

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from penalized import assert_same, check, critic_of, gradients, hinge, images, of_real, plain, relativistic
from torch import nn

from critics import ZOO
from fastgan.penalty import R1, R2, WGANGP, Penalty, ZeroCentered, penalized_loss, r1_penalty
from fastgan.penalty.linearized import Linearization

# --- the adversarial loss ---


def test_without_fake():
    out = penalized_loss(critic_of(), images(), None, lambda r, f: F.softplus(-r).mean() if f is None else None, [R1()])
    assert out.fake_logits is None
    critic, other = critic_of(), critic_of()
    penalized_loss(critic, images(), None, of_real, [R1()]).loss.backward()
    plain(other, images(), None, of_real, [R1()])[0].backward()
    assert_same(gradients([critic]), gradients([other]))


@pytest.mark.parametrize("engine", ["auto", "linearized"])
@pytest.mark.parametrize("penalties", [[R1()], [R2()], [R1(), R2()], [WGANGP(eps=torch.full((4,), 0.3))]])
def test_without_adversarial(penalties, engine):
    path = "double_backward" if engine == "auto" else engine
    out = check(critic_of, adversarial=None, penalties=penalties, engine=engine, path=path)
    assert out.adversarial == 0
    assert ("little is gained" in out.reason) == (engine == "auto")


def test_a_penalty_alone_is_not_recorded(monkeypatch):
    """It would gain nothing; what is shared with the loss still is."""
    recorded = []
    monkeypatch.setattr("fastgan.penalty.batch.Linearization", lambda *args: recorded.append(1) or Linearization(*args))
    out = check(critic_of, penalties=[WGANGP(eps=torch.rand(4))], path="double_backward")
    assert not recorded
    assert out.reason.startswith("no batch serves both the loss and this penalty")
    out = check(critic_of, penalties=[R1(), WGANGP(eps=torch.rand(4))], path="double_backward")
    assert recorded == [1]
    assert "the critic is piecewise linear; no batch" in out.reason


@pytest.mark.parametrize(
    "adversarial",
    [
        of_real,
        lambda r, f: F.softplus(f).mean(),
        lambda r, f: torch.tensor(1.5, dtype=torch.float64),
        lambda r, f: (r.detach() + f.detach()).mean(),
        lambda r, f: (r * f.detach()).mean() + 0 * f.mean(),
    ],
)
def test_adversarial_of_some_logits(adversarial):
    check(critic_of, adversarial=adversarial)


def test_adversarial_with_a_parameter():
    def run(function):
        critic, temperature = critic_of(), nn.ParameterDict({"t": nn.Parameter(torch.tensor(0.7, dtype=torch.float64))})

        def adversarial(real_logits, fake_logits):
            return F.softplus((fake_logits - real_logits) / temperature["t"].exp()).mean()

        function(critic, images(), images(seed=1), adversarial, [R1(), R2()]).backward()
        return gradients([critic, temperature])

    ours = run(lambda *args: penalized_loss(*args).loss)
    assert "1.t" in ours
    assert_same(ours, run(lambda *args: plain(*args)[0]))


@pytest.mark.parametrize("name", ["dcgan", "patch critic", "silu"])
def test_adversarial_that_changes_its_logits_in_place(name):
    def in_place(real_logits, fake_logits):
        real_logits *= 2
        return F.relu(1 - real_logits, inplace=True).mean() + fake_logits.add_(1).relu_().mean()

    def out_of_place(real_logits, fake_logits):
        return F.relu(1 - 2 * real_logits).mean() + (fake_logits + 1).relu().mean()

    entry = ZOO[name]
    critic, other = entry.critic(), entry.critic()
    out = penalized_loss(critic, images(), images(seed=1), in_place, [R1(), R2()])
    out.loss.backward()
    total, _, _ = plain(other, images(), images(seed=1), out_of_place, [R1(), R2()])
    total.backward()
    torch.testing.assert_close(out.loss.detach(), total.detach())
    assert_same(gradients([critic]), gradients([other]))
    torch.testing.assert_close(out.real_logits, other(images()).detach())


@pytest.mark.parametrize("name", ["patch critic", "multi-scale", "unet"])
def test_several_logits(name):
    check(ZOO[name].critic, adversarial=hinge)
    check(ZOO[name].critic, adversarial=None, penalties=[R1()], engine="linearized")


def test_batches_of_one_and_of_different_sizes():
    check(critic_of, images(1))
    check(critic_of, images(1), penalties=[R1()], adversarial=of_real)
    for real, fake in ((4, 2), (1, 4)):
        check(critic_of, images(real), images(fake, seed=1), adversarial=hinge)


# --- penalties ---


class Norm(Penalty):
    """mean |g|_1 at the real samples."""

    name: ClassVar[str] = "norm"
    points: ClassVar[str] = "real"

    def value(self, grads):
        return grads.abs().flatten(1).sum(1).mean()

    def inputs(self, real, fake, generator=None):
        return real.detach()


def test_two_penalties_at_one_point():
    out = check(critic_of, penalties=[R1(), Norm(), R2()])
    assert list(out.penalties) == ["r1", "norm", "r2"]


def test_lazy_regularisation():
    for step in range(5):
        critic, other = critic_of(), critic_of()
        out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1(1.0)], every=4, step=step)
        out.loss.backward()
        plain(other, images(), images(seed=1), relativistic, [R1(4.0)] if step % 4 == 0 else [])[0].backward()
        assert_same(gradients([critic]), gradients([other]))
        assert out.path == ("none" if step % 4 else "linearized")
        r1_penalty(critic, images(), every=4, step=step).backward()


@pytest.mark.parametrize("penalty", [R1(), WGANGP(eps=torch.rand(4))])
def test_dead_critic(penalty):
    def build():
        critic = critic_of()
        nn.init.zeros_(critic[-1].weight)
        return critic

    out = check(build, penalties=[penalty], engine="linearized")
    assert out.penalties[penalty.name].isfinite()
    critic = build()
    penalized_loss(critic, images(), images(seed=1), None, [penalty]).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())


def test_nan():
    critic, bad = critic_of(), images()
    bad[1, 0, 0, 0] = torch.nan
    for _ in range(2):
        out = penalized_loss(critic, bad, images(seed=1), relativistic, [R1()])
        out.loss.backward()
        assert out.loss.isnan()
        assert critic[0].weight.grad.isnan().all()
        critic.zero_grad()
        assert penalized_loss(critic, images(), images(seed=1), relativistic, [R1()]).path == "linearized"


@pytest.mark.parametrize("penalty", [R1(), R2(), WGANGP(eps=torch.empty(0)), ZeroCentered(eps=torch.empty(0))])
@pytest.mark.parametrize("adversarial", [None, hinge])
def test_no_sample(penalty, adversarial):
    """The mean of nothing, as in plain PyTorch."""
    ours, theirs, none = critic_of(), critic_of(), images()[:0]
    out = penalized_loss(ours, none, none, adversarial, [penalty])
    out.loss.backward()
    expected, *_ = plain(theirs, none, none, adversarial, [penalty])
    expected.backward()
    assert out.path == "double_backward"
    assert out.reason == "the batch is empty"
    torch.testing.assert_close(out.loss, expected, equal_nan=True)
    for critic in (ours, theirs):
        assert not any(gradient.any() for gradient in gradients([critic]).values())
    with pytest.raises(RuntimeError, match="cannot serve an empty batch"):
        penalized_loss(critic_of(), none, none, adversarial, [penalty], engine="linearized")
