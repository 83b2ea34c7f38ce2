"""Penalized losses against plain double backward, on every critic of the zoo."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from flops import count_flops
from torch import nn

from critics import ZOO
from fastgan import penalty as p

KINDS = {
    "r1": [p.R1(10.0)],
    "r1 and r2": [p.R1(10.0), p.R2(3.0)],
    "wgan-gp": [p.WGANGP(10.0)],
    "one-sided": [p.WGANGP(10.0, center=0.01, one_sided=True)],
    "pixel": [p.WGANGP(10.0, norm="pixel")],
    "zero-centered": [p.ZeroCentered(10.0)],
    "max gradient": [p.MaxGradient(1.0)],
    "dragan": [p.DRAGAN(10.0)],
    "all": [p.R1(10.0), p.R2(3.0), p.WGANGP(10.0), p.DRAGAN(5.0)],
}
PLAIN = [name for name, entry in ZOO.items() if entry.plain]
FEW = [
    "sngan, hooks",
    "biggan cifar, projection",
    "patch critic",
    "r3gan",
    "ties at hardtanh, clamp, maximum, relu6",
    "silu",
]


def relativistic(real, fake):
    return F.softplus(fake.unsqueeze(-1).flatten(1).mean(1) - real.unsqueeze(-1).flatten(1).mean(1)).mean()


def logistic(real, fake):
    """Unlike the relativistic loss, it leaves no gradient of zero that is a difference of two others."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def of_real(real, fake):
    return F.softplus(-real).mean()


def logits_of(output):
    return output[0] if isinstance(output, tuple | list) else output


def plain(critic, real, fake, args, adversarial, penalties):
    """Loss and gradients as most codebases have them, each point's forward shared with the adversarial loss."""
    generator, logits, loss = torch.Generator().manual_seed(7), {}, 0.0
    needed = {penalty.points for penalty in penalties} | ({"real", "fake"} if adversarial else set())
    points = {name: x.clone().requires_grad_() for name, x in (("real", real), ("fake", fake)) if name in needed}
    logits = {name: logits_of(critic(x, *args)) for name, x in points.items()}
    if adversarial:
        loss = adversarial(logits["real"], logits["fake"])
    for penalty in penalties:
        if penalty.points not in points:
            x = penalty.inputs(real, fake, generator).requires_grad_()
            o = logits_of(critic(x, *args))
        else:
            x, o = points[penalty.points], logits[penalty.points]
        (g,) = torch.autograd.grad(o.sum(), x, create_graph=True)
        loss = loss + penalty.value(g)
    loss.backward()
    return loss.detach()


def compare(name, penalties, *, adversarial=relativistic, dtype=torch.float64, **options):
    """Both ways from the same start; returns the result, the relative error of loss, gradients and buffers."""
    entry = ZOO[name]
    real, fake, args = entry.images(dtype=dtype, seed=1), entry.images(dtype=dtype, seed=2), entry.args(4)
    theirs, ours = entry.critic(dtype), entry.critic(dtype)
    torch.manual_seed(5)
    expected = plain(theirs, real, fake, args, adversarial, penalties)
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(7)
    out = p.penalized_loss(
        ours, real, fake, adversarial, penalties, real_args=args, fake_args=args, generator=generator, **options
    )
    out.loss.backward()
    return out, max(relative(out.loss.detach(), expected), gradient_error(ours, theirs), buffer_error(ours, theirs))


def relative(actual, expected):
    return float((actual - expected).abs() / expected.abs().clamp(min=1e-3))


def gradient_error(ours, theirs):
    """The largest error of a parameter's gradient, relative to max(its norm, 1e-3 of the whole gradient's)."""
    pairs = [(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]
    whole = sum(float(b.square().sum()) for _, b in pairs if b is not None) ** 0.5
    errors = [0.0]
    for a, b in pairs:
        if a is not None or b is not None:
            a = torch.zeros_like(b) if a is None else a
            b = torch.zeros_like(a) if b is None else b
            errors.append(float((a - b).norm()) / max(float(b.norm()), 1e-3 * whole, 1e-30))
    return max(errors)


def buffer_error(ours, theirs):
    pairs = zip(ours.buffers(), theirs.buffers(), strict=True)
    return max((float((a.double() - b.double()).abs().max()) for a, b in pairs), default=0.0)


# --- exact, for every critic and kind ---


@pytest.mark.parametrize("name", PLAIN)
def test_every_critic(name):
    out, error = compare(name, KINDS["r1 and r2"])
    assert error < 1e-10
    expected = ZOO[name].piecewise_linear
    assert expected is None or (out.path == "linearized") == expected, out.reason


@pytest.mark.parametrize("name", PLAIN)
def test_every_critic_penalty_only(name):
    _, error = compare(name, KINDS["wgan-gp"], adversarial=None)
    assert error < 1e-10


@pytest.mark.parametrize("name", PLAIN)
def test_every_critic_in_float32(name):
    _, error = compare(name, KINDS["r1"], adversarial=logistic, dtype=torch.float32)
    # A unit within rounding of its kink may fall to either side. Float64 shows that the maths are the same.
    assert error < 1e-3


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("name", FEW)
def test_every_kind(name, kinds):
    out, error = compare(name, KINDS[kinds])
    assert error < 1e-10
    assert set(out.penalties) == {penalty.name for penalty in KINDS[kinds]}


@pytest.mark.parametrize("name", FEW)
def test_engines_agree(name):
    _, error = compare(name, KINDS["r1 and r2"], engine="double_backward")
    assert error < 1e-10


# --- real and fake in one call ---


def plain_together(critic, real, fake, args, adversarial, penalties):
    """Loss and gradients of one call on real and fake samples."""
    x = torch.cat([real, fake]).requires_grad_()
    o = logits_of(critic(x, *(torch.cat([a, a]) for a in args)))
    (g,) = torch.autograd.grad(o.sum(), x, create_graph=True)
    halves = {"real": g[: len(real)], "fake": g[len(real) :]}
    loss = adversarial(o[: len(real)], o[len(real) :]) if adversarial else 0.0
    loss = loss + sum(penalty.value(halves[penalty.points]) for penalty in penalties)
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("adversarial", [logistic, None], ids=["adversarial", "penalties alone"])
@pytest.mark.parametrize("kinds", ["r1", "r1 and r2"])
@pytest.mark.parametrize("name", [*FEW, "minibatch stddev", "training batch norm", "running statistics"])
def test_together(name, kinds, adversarial):
    entry = ZOO[name]
    real, fake, args = entry.images(4, torch.float64, 1), entry.images(4, torch.float64, 2), entry.args(4)
    theirs, ours = entry.critic(torch.float64), entry.critic(torch.float64)
    torch.manual_seed(5)
    expected = plain_together(theirs, real, fake, args, adversarial, _there(kinds, adversarial))
    torch.manual_seed(5)
    out = p.penalized_loss(
        ours, real, fake, adversarial, _there(kinds, adversarial), real_args=args, fake_args=args, together=True
    )
    out.loss.backward()
    assert relative(out.loss.detach(), expected) < 1e-10
    assert gradient_error(ours, theirs) < 1e-10
    assert buffer_error(ours, theirs) < 1e-10
    if adversarial:
        assert (len(out.real_logits), len(out.fake_logits)) == (4, 4)


def _there(kinds, adversarial):
    # Without an adversarial loss the critic is called where there are penalties alone.
    return KINDS["r1 and r2" if adversarial is None else kinds]


@pytest.mark.parametrize(
    ("penalties", "expected"),
    [([], [5]), ([p.R1()], [5]), ([p.R2(), p.R1()], [5]), ([p.DRAGAN(), p.R1()], [5, 3])],
    ids=["no penalty", "r1", "both", "at other points too"],
)
def test_one_call_agrees_with_two(penalties, expected):
    calls, results = [], []
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * 36, 1)).double()
    critic.register_forward_hook(lambda module, inputs, out: calls.append(len(out)))
    # Fake samples need not be as many as real ones.
    real, fake = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for together in (True, False):
        generator = torch.Generator().manual_seed(3)
        critic.zero_grad()
        calls.clear()
        out = p.penalized_loss(critic, real, fake, logistic, penalties, together=together, generator=generator)
        out.loss.backward()
        assert calls == (expected if together else [3, 2, *expected[1:]])
        results.append([out.loss.detach(), *out.penalties.values(), *(q.grad for q in critic.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


# --- premises ---


@pytest.mark.parametrize("name", [n for n in PLAIN if ZOO[n].piecewise_linear is False])
def test_asked_for_linearized_a_broken_premise_raises_and_names_it(name):
    entry = ZOO[name]
    with pytest.raises(RuntimeError, match=r"cannot serve this critic: .+"):
        p.penalized_loss(
            entry.critic(), entry.images(), None, None, [p.R1()], real_args=entry.args(4), engine="linearized"
        )


def test_the_reason_names_operation_and_line():
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.LazyLinear(1)).double()

    def call(x):
        return critic(x)

    critic(torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    out = p.penalized_loss(call, torch.randn(2, 3, 8, 8, dtype=torch.float64), None, of_real, [p.R1()])
    assert out.path == "linearized_trunk"
    assert out.reason.startswith("silu is not known to be piecewise linear (test_penalized_loss.py:")


class _Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@pytest.mark.parametrize("where", ["alone", "beside"])
def test_a_hidden_function_is_seen(where):
    layer = nn.Linear(5, 1).double()

    def critic(x):
        return layer(_Hidden.apply(x)) + (layer(x) if where == "beside" else 0)

    out = p.penalized_loss(critic, torch.randn(3, 5, dtype=torch.float64), None, of_real, [p.R1()])
    assert out.path == "double_backward"
    assert "_HiddenBackward, whose inside cannot be seen" in out.reason


def test_a_coupling_that_only_shows_in_numbers_is_found_by_the_proof():
    """A square weight applied from the left mixes the samples; it is the identity today."""
    mixing, layer = torch.eye(4, dtype=torch.float64), nn.Linear(5, 1).double()

    def critic(x):
        return layer(mixing @ x)

    out = p.penalized_loss(critic, torch.randn(4, 5, dtype=torch.float64), None, of_real, [p.R1()])
    assert (out.path, out.reason.partition(" (")[0]) == ("double_backward", "matmul mixes samples")


def test_a_constant_changed_in_place_is_seen():
    layer, shift = nn.Linear(5, 1).double(), torch.zeros(5, dtype=torch.float64)

    def critic(x):
        h = x + shift
        shift.add_(1)
        return layer(h)

    out = p.penalized_loss(critic, torch.randn(4, 5, dtype=torch.float64), None, of_real, [p.R1()])
    assert out.path == "double_backward"
    assert "changed in place later" in out.reason


def test_one_proof_for_each_sequence_of_operations(monkeypatch):
    from fastgan.penalty import proof

    proofs = []
    prove = proof._prove
    monkeypatch.setattr(proof, "_prove", lambda forward: proofs.append(forward) or prove(forward))
    entry = ZOO["dcgan"]
    critic = entry.critic()
    for n in (4, 4, 2, 4):
        p.penalized_loss(critic, entry.images(n), None, of_real, [p.R1()])
    assert len(proofs) == 2
    p.penalized_loss(critic, entry.images(), None, of_real, [p.R1()], check="always")
    p.penalized_loss(entry.critic(seed=1), entry.images(2), None, of_real, [p.R1()], check="never")
    assert len(proofs) == 3


# --- trunks ---


@pytest.mark.parametrize("name", ["minibatch stddev", "attention", "silu", "training batch norm", "whole mean"])
@pytest.mark.parametrize("kinds", ["r1", "r1 and r2"])
def test_a_trunk_is_linearized(name, kinds):
    out, error = compare(name, KINDS[kinds])
    assert out.path == "linearized_trunk"
    assert error < 1e-10


def test_what_a_head_takes_unseen_is_found():
    first, second, last = (nn.Linear(5, size).double() for size in (5, 5, 1))

    def critic(x):
        seen, unseen = first(x), second(x)
        return last(F.silu(seen) + _Hidden.apply(unseen))

    out = p.penalized_loss(critic, torch.randn(3, 5, dtype=torch.float64), None, of_real, [p.R1()])
    assert out.path == "double_backward"
    assert out.reason.endswith("what the head takes from the trunk is not all seen")


# --- cost ---


def _five_layers():
    torch.manual_seed(0)
    widths = (3, 8, 16, 32, 64)
    layers = []
    for c_in, c_out in pairwise(widths):
        layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4, 1))


@pytest.mark.parametrize(
    ("penalties", "adversarial", "most"),
    [
        ([p.R1()], lambda real, fake: F.softplus(-real).mean(), 4.05),
        ([p.R1(), p.R2()], relativistic, 8.1),
        ([p.WGANGP()], None, 4.05),
    ],
    ids=["adversarial and r1", "r3gan", "wgan-gp alone"],
)
def test_flops(penalties, adversarial, most):
    critic, real, fake = _five_layers(), torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    given = fake if len(penalties) == 2 or adversarial is None else None

    def step():
        p.penalized_loss(critic, real, given, adversarial, penalties, engine="linearized").loss.backward()

    step()
    assert count_flops(step) / count_flops(lambda: critic(real)) <= most


@pytest.mark.parametrize("n", [4, 16])
def test_the_proof_costs_less_than_a_plain_step(n):
    """In products: 8 forwards, where a plain step with R1 takes 9; two samples or many."""
    critic, real = _five_layers(), torch.randn(n, 3, 32, 32)

    def step(check):
        p.penalized_loss(critic, real, None, of_real, [p.R1()], check=check, engine="linearized").loss.backward()

    step("first")
    proof = count_flops(lambda: step("always")) - count_flops(lambda: step("never"))
    assert proof / count_flops(lambda: critic(real)) <= 8.1


def test_the_gradient_of_the_images_is_not_computed_twice():
    """The penalty reads it once; the backward of the loss has no use for it, and torch would store it."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.SiLU(), nn.Flatten(), nn.LazyLinear(1))
    x = torch.randn(4, 3, 8, 8)
    critic(x)
    one = count_flops(lambda: critic[0](x))

    def step():
        p.penalized_loss(critic, x, None, of_real, [p.R1()], engine="double_backward").loss.backward()

    def plain_step():
        points = x.clone().requires_grad_()
        logits = critic(points)
        (g,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
        (of_real(logits, None) + g.square().sum()).backward()

    assert count_flops(plain_step) - count_flops(step) == pytest.approx(one)


def test_our_own_spectral_norm_costs_nothing_more():
    critic = ZOO["sngan, grouped"].critic(torch.float32)
    x = ZOO["sngan, grouped"].images(dtype=torch.float32)

    def step():
        p.penalized_loss(
            critic, x, None, lambda real, fake: -real.mean(), [p.R1()], engine="linearized"
        ).loss.backward()

    step()
    assert count_flops(step) / count_flops(lambda: critic(x)) <= 4.05


# --- arguments ---


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"real": None}, TypeError, "real must be a tensor"),
        ({"fake": 3}, TypeError, "fake must be a tensor"),
        ({"adversarial": 1.0}, TypeError, "adversarial must be a function"),
        ({"penalties": ["r1"]}, TypeError, r"penalties\[0\] must be a penalty"),
        ({"penalties": [p.R1(), p.R1()]}, ValueError, "each name once"),
        ({"penalties": [], "adversarial": None}, ValueError, "must not both be left out"),
        ({"every": 0}, ValueError, "every must be an integer >= 1"),
        ({"step": -1}, ValueError, "step must be an integer >= 0"),
        ({"engine": "fast"}, ValueError, "engine must be one of"),
        ({"check": "sometimes"}, ValueError, "check must be one of"),
        ({"critic": lambda x: {"logits": x}}, TypeError, "critic must return logits"),
        ({"together": True, "fake": torch.randn(2, 5)}, ValueError, "fake must be samples like real"),
        ({"together": True, "fake": torch.randn(2, 4, device="meta")}, ValueError, "fake must be samples like real"),
        ({"together": True, "fake": torch.randn(3, 4), "real_args": [1]}, ValueError, "fake_args must be as many"),
        (
            {"together": True, "fake": torch.randn(3, 4), "real_args": [1], "fake_args": [2]},
            ValueError,
            r"fake_args\[0\] must go with real_args\[0\]",
        ),
        (
            {"together": True, "fake": torch.randn(3, 4), "real_args": [torch.ones(2)], "fake_args": [torch.ones(2)]},
            ValueError,
            r"fake_args\[0\] must go with real_args\[0\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_arguments(change, error, message):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    arguments = {"critic": critic, "real": torch.randn(2, 4), "penalties": [p.R1()], **change}
    with pytest.raises(error, match=message):
        p.penalized_loss(**arguments)
