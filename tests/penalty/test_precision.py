"""Gradient penalties under autocast and gradient scaling, and several backwards of one loss or of several."""

import copy

import pytest
import torch
import torch.nn.functional as F
from penalized import assert_same, check, critic_of, gradients, hinge, images, of_real, one_line, plain, relativistic

from critics import ZOO, conv
from fastgan.penalty import DRAGAN, R1, R2, WGANGP, MaxGradient, ZeroCentered, penalized_loss

# --- precision and scaling ---


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
@pytest.mark.parametrize("name", ["dcgan", "sngan, hooks", "unet", "r3gan", "in-place operations", "maxout mlp"])
def test_autocast(name, engine):
    entry = ZOO[name]
    real, fake = entry.images(4, torch.float32), entry.images(4, torch.float32, seed=1)

    def run(penalized, autocast):
        critic = entry.critic(torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if penalized:
                total = penalized_loss(critic, real, fake, hinge, [R1(5.0)], engine=engine).loss
            else:
                total = plain(critic, real, fake, hinge, [R1(5.0)])[0]
        total.backward()
        return torch.cat([g.flatten() for _, g in sorted(gradients([critic]).items())])

    exact, expected, ours = run(False, False), run(False, True), run(True, True)
    assert ours.dtype == torch.float32
    # The linearized engine rounds a pass more; of 30 draws the worst is 1.4 times as far off as plain torch.
    assert (ours - exact).norm() <= 3 * (expected - exact).norm() + 1e-3 * exact.norm()
    assert not torch.equal(ours, exact)


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
@pytest.mark.parametrize("outside", [False, True])
def test_autocast_inside_the_critic(outside, engine):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            h = F.leaky_relu(self.stem(x), 0.2)
            h = F.relu(self.middle(h)) + h
            assert self.middle(h).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            h = F.relu(self.last(h.float()))
        return self.head(h)

    def build():
        return one_line(forward, torch.float32, middle=lambda: conv(6, 6), last=lambda: conv(6, 6))

    with torch.autocast("cpu", torch.bfloat16, enabled=outside):
        check(
            build, images(dtype=torch.float32), adversarial=hinge, engine=engine, path=engine,
            tolerance=0.05, backward=lambda loss: loss.float().backward(),
        )  # fmt: skip


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("kind", [R1, R2, WGANGP, ZeroCentered, MaxGradient, DRAGAN])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_fake_samples(half, kind, together):
    """Those of a generator under autocast; the real ones are float32. The bits are those of the same values in float32.

    But the R2 of fake samples that go through the critic by themselves has its gradient in their dtype, where g and the
    tangent it makes go through four roundings at most.
    """

    def run(dtype):
        critic = critic_of(dtype=torch.float32)
        real, fake = images(dtype=torch.float32), images(dtype=torch.float32, seed=1).to(half).to(dtype)
        generator = torch.Generator().manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            out = penalized_loss(critic, real, fake, hinge, [kind()], together=together, generator=generator)
        out.loss.backward()
        return gradients([critic])

    rounded = kind is R2 and not together
    assert_same(run(half), run(torch.float32), 4 * torch.finfo(torch.bfloat16).eps if rounded else 0)


def test_scaled_loss():
    check(critic_of, backward=lambda loss: (0.5 * loss).backward())
    check(critic_of, backward=lambda loss: torch.amp.GradScaler("cpu", init_scale=1024.0).scale(loss).backward())


def test_grad_scaler_step():
    """Unscaled gradients, and a step that is skipped when they are not finite."""
    critic, other = critic_of(dtype=torch.float32), critic_of(dtype=torch.float32)
    real, fake = images(dtype=torch.float32), images(dtype=torch.float32, seed=1)
    for model, total in (
        (critic, penalized_loss(critic, real, fake, hinge, [R1()]).loss),
        (other, plain(other, real, fake, hinge, [R1()])[0]),
    ):
        scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(model.parameters(), 0.1)
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(critic.state_dict(), other.state_dict())
    before = copy.deepcopy(critic.state_dict())
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD(critic.parameters(), 0.1)
    scaler.scale(penalized_loss(critic, real * torch.inf, fake, hinge, [R1()]).loss).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(critic.state_dict(), before)
    assert scaler.get_scale() == 2.0**15


# --- backward ---


def test_accumulation():
    critic, other = critic_of(), critic_of()
    for seed in (0, 2):
        real, fake, eps = images(seed=seed), images(seed=seed + 1), torch.rand(4)
        penalties = [R1(1.0), WGANGP(eps=eps)]
        (0.5 * penalized_loss(critic, real, fake, relativistic, penalties).loss).backward()
        (0.5 * plain(other, real, fake, relativistic, penalties)[0]).backward()
    assert_same(gradients([critic]), gradients([other]))


def test_two_losses_before_one_backward():
    critic, other = critic_of(), critic_of()
    calls = [(critic, lambda *args: penalized_loss(*args).loss), (other, lambda *args: plain(*args)[0])]
    for model, function in calls:
        sum(function(model, images(seed=i), images(seed=i + 1), relativistic, [R1()]) for i in (0, 2)).backward()
    assert_same(gradients([critic]), gradients([other]))


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
def test_backward_twice(engine):
    critic = critic_of()
    out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], engine=engine)
    out.loss.backward(retain_graph=True)
    once = gradients([critic])
    out.loss.backward()
    torch.testing.assert_close(gradients([critic]), {name: 2 * g for name, g in once.items()})
    with pytest.raises(RuntimeError, match="second time"):
        out.loss.backward()


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
def test_no_second_derivative(engine):
    critic = critic_of()
    out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], engine=engine)
    with pytest.raises(RuntimeError, match="without create_graph"):
        out.loss.backward(create_graph=True)
    with pytest.raises(RuntimeError, match="without create_graph"):
        torch.autograd.grad(out.loss, list(critic.parameters()), create_graph=True)


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
def test_autograd_grad(engine):
    critic, other = critic_of(), critic_of()
    out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], engine=engine)
    grads = torch.autograd.grad(out.loss, list(critic.parameters()))
    plain(other, images(), images(seed=1), relativistic, [R1()])[0].backward()
    names = [f"0.{name}" for name, _ in critic.named_parameters()]
    assert_same(dict(zip(names, grads, strict=True)), gradients([other]))
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
def test_no_grad(engine):
    critic = critic_of()
    expected = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], engine=engine)
    with torch.no_grad():
        out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], engine=engine)
        assert not torch.is_grad_enabled()
    assert not out.loss.requires_grad
    torch.testing.assert_close(out.loss, expected.loss.detach())
    torch.testing.assert_close(out.penalties, expected.penalties)


def test_inference_mode():
    critic, real = critic_of(), images()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="call it under"):
        penalized_loss(critic, real, None, of_real, [R1()])


def test_hooks_of_parameters():
    """A parameter's hook sees the whole gradient, once in a backward."""

    def build():
        critic, seen = critic_of(), []
        critic[0].weight.register_hook(lambda g: seen.append(g) or (0.5 * g).clamp(-1e-3, 1e-3))
        critic.seen = seen
        return critic

    critic = build()
    penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], check="never").loss.backward()
    assert len(critic.seen) == 1
    check(build)
