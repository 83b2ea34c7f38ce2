"""Gradient penalties among all else that a training loop does, against plain torch on the same weights."""

import copy
import functools
import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from critics import CLASSES, ZOO, Call, conv, labels, sngan_grouped, sngan_hooks, sngan_parametrizations, stem_and_head
from fastgan.penalty import R1, R2, WGANGP, Penalty, penalized_loss, proof, r1_penalty

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def relativistic(real_logits, fake_logits):
    return F.softplus(fake_logits - real_logits).mean()


def hinge(real_logits, fake_logits):
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def of_real(real_logits, fake_logits):
    return F.softplus(-real_logits).mean()


def critic_of(*middle, dtype=torch.float64, seed=0):
    """A small critic with something in its middle, [N, 6, 8, 8] -> [N, 6, 8, 8]."""
    torch.manual_seed(seed)
    return nn.Sequential(
        conv(3, 6, stride=2), nn.LeakyReLU(0.2), *middle, conv(6, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 1)
    ).to(dtype)  # fmt: skip


def one_line(function, dtype=torch.float64, **modules):
    """A critic in one line; `modules` are functions that make them."""
    torch.manual_seed(0)
    return Call(function, **stem_and_head(**{name: make() for name, make in modules.items()})).to(dtype)


def images(n=4, dtype=torch.float64, seed=0):
    return ZOO["dcgan"].images(n, dtype, seed)


def logits_of(output):
    return output[0] if isinstance(output, tuple) else output


def plain(critic, real, fake=None, adversarial=None, penalties=(), real_args=(), fake_args=()):
    """What codebases write: (loss, adversarial, penalties by name)."""
    points = {"real": real.detach().requires_grad_()}
    logits = {"real": logits_of(critic(points["real"], *real_args))}
    if fake is not None:
        points["fake"] = fake.detach().requires_grad_()
        logits["fake"] = logits_of(critic(points["fake"], *fake_args))
    total = first = 0.0 if adversarial is None else adversarial(logits["real"], logits.get("fake"))
    values = {}
    for penalty in penalties:
        x, o = points.get(penalty.points), logits.get(penalty.points)
        if x is None:
            x = penalty.inputs(real, fake).requires_grad_()
            o = logits_of(critic(x, *real_args))
        (g,) = torch.autograd.grad(o.sum(), x, create_graph=True)
        values[penalty.name] = penalty.value(g)
        total = total + values[penalty.name]
    return total, first, values


def gradients(modules):
    return {
        f"{i}.{name}": p.grad.clone()
        for i, module in enumerate(modules)
        for name, p in module.named_parameters()
        if p.grad is not None
    }


def assert_same(ours, theirs, tolerance=None):
    """Gradients by name: within the tolerance, relative to each norm and to a thousandth of the norm of all."""
    size = sum(float(g.double().square().sum()) for g in theirs.values()) ** 0.5
    assert size > 0
    for name in ours.keys() | theirs.keys():
        mine, expected = ours.get(name), theirs.get(name)
        if mine is None or expected is None:  # None is zero
            assert not (expected if mine is None else mine).any(), name
            continue
        assert mine.dtype == expected.dtype
        scale = max(float(expected.norm()), 1e-3 * size)
        error = float((mine.double() - expected.double()).norm()) / scale
        assert error <= (tolerance or TOLERANCE[mine.dtype]), (name, error)


def check(
    build,
    real=None,
    fake=None,
    adversarial=relativistic,
    penalties=None,
    *,
    path="linearized",
    tolerance=None,
    backward=lambda loss: loss.backward(),
    **kwargs,
):
    """Both on critics with the same weights and random numbers: values, gradients and buffers are the same."""
    real, penalties = images() if real is None else real, penalties or [R1(2.0), R2(3.0)]
    fake = images(len(real), real.dtype, seed=1) if fake is None else fake
    mine, theirs = build(), build()
    torch.manual_seed(1)
    out = penalized_loss(mine, real, fake, adversarial, penalties, **kwargs)
    backward(out.loss)
    after = torch.rand(())
    assert out.path == path, out.reason
    plain_kwargs = {key: kwargs[key] for key in ("real_args", "fake_args") if key in kwargs}
    torch.manual_seed(1)
    total, first, values = plain(theirs, real, fake, adversarial, penalties, **plain_kwargs)
    backward(total)
    assert after == torch.rand(()), "other random numbers were drawn"
    assert_same(gradients([mine]), gradients([theirs]), tolerance)
    rounding = {"rtol": tolerance, "atol": tolerance} if tolerance else {}
    torch.testing.assert_close(out.loss.detach(), total.detach(), **rounding)
    if adversarial is not None:
        torch.testing.assert_close(out.adversarial, first.detach(), **rounding)
    torch.testing.assert_close(out.penalties, {k: v.detach() for k, v in values.items()}, **rounding)
    for (name, buffer), expected in zip(mine.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name, **rounding)
    return out


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
    assert (ours - exact).norm() <= 1.5 * (expected - exact).norm() + 1e-3 * exact.norm()
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


# --- the critic's surroundings ---


def test_channels_last():
    def build():
        return critic_of().to(memory_format=torch.channels_last)

    real, fake = (images(seed=i).to(memory_format=torch.channels_last) for i in (0, 1))
    check(build, real, fake)
    check(build, real, fake, penalties=[WGANGP(eps=torch.rand(4))])


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
    check(entry.critic, penalties=[WGANGP(eps=torch.rand(4))], real_args=(y,), fake_args=((y + 2) % CLASSES,))


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


# --- the adversarial loss ---


def test_without_fake():
    out = penalized_loss(critic_of(), images(), None, lambda r, f: F.softplus(-r).mean() if f is None else None, [R1()])
    assert out.fake_logits is None
    critic, other = critic_of(), critic_of()
    penalized_loss(critic, images(), None, of_real, [R1()]).loss.backward()
    plain(other, images(), None, of_real, [R1()])[0].backward()
    assert_same(gradients([critic]), gradients([other]))


@pytest.mark.parametrize("penalties", [[R1()], [R2()], [R1(), R2()], [WGANGP(eps=torch.full((4,), 0.3))]])
def test_without_adversarial(penalties):
    out = check(critic_of, adversarial=None, penalties=penalties)
    assert out.adversarial == 0


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
    check(ZOO[name].critic, adversarial=None, penalties=[R1()])


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

    out = check(build, penalties=[penalty])
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


# --- engines and proofs ---


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
    check(build, adversarial=None, penalties=[R2()])


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


# --- random numbers and power iterations ---


@pytest.mark.parametrize("build", [sngan_hooks, sngan_parametrizations, sngan_grouped])
@pytest.mark.parametrize("penalties", [[R1()], [R1(), R2()], [WGANGP(eps=torch.full((4,), 0.25)), R1()]])
def test_power_iterations(build, penalties):
    def double():
        torch.manual_seed(0)
        return build().double()

    check(double, penalties=penalties)


@pytest.mark.parametrize("penalties", [[R1()], [R1(), R2()], [WGANGP()]])
def test_dropout(penalties):
    check(lambda: critic_of(nn.Dropout(0.3), nn.Dropout2d(0.2)), penalties=penalties)


@pytest.mark.parametrize("preserve", [True, False])
def test_checkpointing(preserve):
    runs = []

    def forward(self, x):
        def middle(h):
            runs.append(1)
            h = F.relu(self.middle(h))
            if preserve:
                h = F.dropout(h, 0.3)
            return F.leaky_relu(self.middle(F.leaky_relu(h)) + h, 0.2)

        return self.head(checkpoint(middle, self.stem(x), use_reentrant=False, preserve_rng_state=preserve))

    critic, other = (one_line(forward, middle=lambda: conv(6, 6)) for _ in range(2))
    penalized_loss(critic, images(), None, of_real, [R1()])
    runs.clear()
    torch.manual_seed(1)
    out = penalized_loss(critic, images(), None, of_real, [R1()])
    out.loss.backward()
    ours = len(runs)
    runs.clear()
    torch.manual_seed(1)
    plain(other, images(), None, of_real, [R1()])[0].backward()
    assert ours == len(runs)
    assert_same(gradients([critic]), gradients([other]))


def test_threads():
    """Two at once; afterwards torch.compile compiles as before."""
    stance = torch._dynamo.eval_frame._stance
    critics, found = [critic_of(), critic_of()], []
    together = threading.Barrier(2)

    def run(critic):
        def waiting(x):
            # The first is inside until the second has come, and then goes first.
            if not critic.waited:
                critic.waited = True
                together.wait(20)
                time.sleep(critic.delay)
            return critic(x)

        critic.waited, critic.delay = False, 0.5 * critics.index(critic)
        penalized_loss(waiting, images(), images(seed=1), relativistic, [R1()]).loss.backward()
        found.append(gradients([critic]))

    threads = [threading.Thread(target=run, args=(critic,)) for critic in critics]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = critic_of()
    plain(other, images(), images(seed=1), relativistic, [R1()])[0].backward()
    assert torch._dynamo.eval_frame._stance == stance
    assert len(found) == 2
    for ours in found:
        assert_same(ours, gradients([other]))


# --- memory ---


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
def test_activations_are_freed(engine):
    alive = []

    def forward(self, x):
        h = self.stem(x)
        alive.append(weakref.ref(h))
        h = F.relu(h)
        alive.append(weakref.ref(h))
        alive.append(weakref.ref(h.untyped_storage()))
        return self.head(h), h

    critic = one_line(forward)
    gc.collect()
    gc.disable()
    try:
        out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], engine=engine)
        if engine == "linearized":  # and those of the real samples even before
            assert not any(ref() for ref in alive[:3])
        out.loss.backward()
        assert len(alive) == 6
        assert not any(ref() for ref in alive)
    finally:
        gc.enable()


def test_kept_features_do_not_keep_the_tape(monkeypatch):
    tapes, kept = [], []
    init = proof.Linearization.__init__

    def note(self, *args):
        init(self, *args)
        tapes.append(weakref.ref(self.tape))

    monkeypatch.setattr(proof.Linearization, "__init__", note)
    critic = one_line(lambda self, x: (lambda h: (self.head(h), kept.append(h)))(F.relu(self.stem(x))))
    gc.collect()
    gc.disable()
    try:
        out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1(), R2()])
        assert out.path == "linearized"
        assert len(tapes) == len(kept) == 2
        assert not any(tape() for tape in tapes)
    finally:
        gc.enable()


# --- compilers and transforms ---


def gradients_after(call):
    critic = critic_of()
    call(critic).backward()
    return {name.replace("_orig_mod.", ""): g for name, g in gradients([critic]).items()}


def reference():
    return gradients_after(lambda critic: plain(critic, images(), images(seed=1), relativistic, [R1(), R2()])[0])


def penalized(critic, adversarial=relativistic, engine="auto"):
    return penalized_loss(critic, images(), images(seed=1), adversarial, [R1(), R2()], engine=engine).loss


def compiled_in_place(critic, compile_options):
    critic[0].compile(**compile_options)
    return penalized(critic)


def compiled_inside(critic, compile_options):
    critic[2] = torch.compile(critic[2], **compile_options)
    return penalized(critic)


def compiled_in_a_lambda(critic, compile_options):
    end = torch.compile(critic[2:], **compile_options)
    return penalized(lambda x: end(critic[:2](x)))


COMPILED = {
    "critic": lambda critic, options: penalized(torch.compile(critic, **options)),
    "critic, double backward": lambda critic, options: penalized(
        torch.compile(critic, **options), engine="double_backward"
    ),
    "function": lambda critic, options: penalized(torch.compile(lambda x: critic(x), **options)),
    "inside a lambda": compiled_in_a_lambda,
    "in place": compiled_in_place,
    "a submodule": compiled_inside,
    "the adversarial loss": lambda critic, options: penalized(critic, torch.compile(relativistic, **options)),
}


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("route", COMPILED)
def test_compiled(route, fullgraph):
    torch._dynamo.reset()
    options = {"backend": "aot_eager", "fullgraph": fullgraph}
    assert_same(gradients_after(lambda critic: COMPILED[route](critic, options)), reference())


def test_compiled_around():
    torch._dynamo.reset()
    around = torch.compile(lambda critic: 2 * penalized(critic) / 2, backend="aot_eager")
    assert_same(gradients_after(around), reference())
    around = torch.compile(lambda critic: 2 * r1_penalty(critic, images()), backend="aot_eager")
    expected = gradients_after(lambda critic: 2 * plain(critic, images(), penalties=[R1()])[0])
    assert_same(gradients_after(around), expected)
    torch._dynamo.reset()
    critic, real = critic_of(), images()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="skip"):
        torch.compile(lambda x: r1_penalty(critic, x), backend="aot_eager", fullgraph=True)(real)


def test_functional():
    critic = critic_of()
    params = {name: p.detach().requires_grad_() for name, p in critic.named_parameters()}

    def of(params):
        return penalized(lambda x: functional_call(critic, params, (x,)))

    grads = torch.autograd.grad(of(params), list(params.values()))
    assert_same({f"0.{name}": g for name, g in zip(params, grads, strict=True)}, reference())
    for transform in (torch.func.grad(of), lambda params: torch.func.vjp(of, params)):
        with pytest.raises(RuntimeError, match="requires_grad_"):
            transform(params)
    with pytest.raises(RuntimeError, match="requires_grad_"):
        torch.func.jvp(of, (params,), (params,))


def test_distributed_data_parallel(tmp_path):
    script = Path(__file__).with_name("penalty_steps.py")
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path / "store"], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
