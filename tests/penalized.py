"""penalized_loss against plain torch on the same weights: what the tests of penalties share."""

import torch
import torch.nn.functional as F
from torch import nn

from critics import ZOO, Call, conv, stem_and_head
from fastgan.penalty import R1, R2, penalized_loss

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
        assert error <= (TOLERANCE[mine.dtype] if tolerance is None else tolerance), (name, error)


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
