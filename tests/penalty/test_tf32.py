"""The proof of the linearized engine where products are rounded, as TF32 does on a GPU: emulated here."""

import pytest
import torch
import torch.nn.functional as F
from penalized import gradients, hinge, images, of_real, plain
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from critics import Call, conv
from fastgan.intercept.precision import FULL_FLOAT32, rounds_float32
from fastgan.penalty import R1, penalized_loss, proof
from fastgan.penalty.rules import RULES

PRODUCTS = {
    torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default, torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default, torch.ops.aten.bmm.default,
}  # fmt: skip


def is_on(device="cpu"):
    """By the switch of cuDNN's convolutions, which a CPU does not look at."""
    return rounds_float32("cuda")


class TF32(TorchDispatchMode):
    """Float32 inputs of products have ten bits after the point while that is on."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in PRODUCTS and is_on():
            args = [self.rounded(arg) for arg in args]
        return function(*args, **(kwargs or {}))

    @staticmethod
    def rounded(value):
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        # To nearest: half of the last bit kept is added, what is below it cut off.
        bits = value.contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).reshape(value.shape)


@pytest.fixture(autouse=True)
def tf32(monkeypatch):
    """On for convolutions, as it is by default; nothing of it is left afterwards."""
    monkeypatch.setattr(proof, "rounds_float32", is_on)
    assert is_on()
    yield
    assert is_on()


def deep(layers=14, seed=0):
    """A residual critic of images [N, 3, 16, 16]."""
    torch.manual_seed(seed)

    def forward(self, x):
        h = self.stem(x)
        for layer in self.body:
            h = h + layer(F.leaky_relu(h, 0.2)) * 0.7
        return self.head(F.relu(h).flatten(1))

    body = nn.ModuleList(conv(6, 6) for _ in range(layers - 1))
    return Call(forward, stem=conv(3, 6, stride=2), body=body, head=nn.Linear(6 * 64, 1))


def chain(layers=14):
    torch.manual_seed(0)
    body = [part for _ in range(layers - 1) for part in (nn.LeakyReLU(0.2), conv(6, 6))]
    critic = nn.Sequential(conv(3, 6, stride=2), *body, nn.Flatten(), nn.Linear(6 * 64, 1))
    for layer in critic[2::2]:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, 0.2)
    return critic


def step(critic, real=None, **options):
    real = images(dtype=torch.float32) if real is None else real
    with TF32():
        out = penalized_loss(critic, real, images(dtype=torch.float32, seed=1), hinge, [R1(2.0)], **options)
        out.loss.backward()
    return out


def whole(critic):
    return torch.cat([g.double().flatten() for _, g in sorted(gradients([critic]).items())])


@pytest.mark.parametrize("check", ["first", "always"])
@pytest.mark.parametrize("build", [deep, chain])
def test_a_deep_critic_is_accepted(build, check):
    """And its gradient is as exact as plain torch's in TF32, which is not very."""
    critic, rounded, exact = build(), build(), build().double()
    for _ in range(3):
        critic.zero_grad()
        assert step(critic, check=check).path == "linearized"
    real, fake = (images(dtype=torch.float32, seed=i) for i in (0, 1))
    with TF32():
        plain(rounded, real, fake, hinge, [R1(2.0)])[0].backward()
    plain(exact, real.double(), fake.double(), hinge, [R1(2.0)])[0].backward()
    errors = [float((whole(each) - whole(exact)).norm() / whole(exact).norm()) for each in (critic, rounded)]
    assert errors[0] <= 3 * errors[1] + 1e-3, errors


def test_among_the_roundings_it_would_be_refused(monkeypatch):
    """So the emulation is one, and the proof is as narrow as it was. Of one critic in three the roundings cancel."""
    monkeypatch.setattr(type(FULL_FLOAT32), "run", lambda self, call: call())
    outs = [step(deep(seed=seed)) for seed in range(16)]
    refused = [out.reason for out in outs if out.path == "double_backward"]
    assert refused
    assert all("off by" in reason for reason in refused)


def scaled_slope(rule):
    return rule._replace(replay=lambda op, at: 1.003 * rule.replay(op, at))


def constant_not_scaled(rule):
    def replay(op, at):
        scale = at.scale
        at.scale = None if scale is None else torch.ones_like(scale)
        out = rule.replay(op, at)
        at.scale = scale
        return out

    return rule._replace(replay=replay)


@pytest.mark.parametrize(
    ("name", "fault"),
    [("leaky_relu", scaled_slope), ("add", scaled_slope), ("conv2d", scaled_slope), ("conv2d", constant_not_scaled)],
)
def test_a_wrong_rule_is_refused(monkeypatch, name, fault):
    monkeypatch.setitem(RULES, name, fault(RULES[name]))
    out = step(deep())
    assert out.path == "double_backward"
    assert "off by" in out.reason


def test_a_batch_of_another_size_is_proved_at_once():
    critic = deep()
    for n in (4, 2, 4, 3):
        assert step(critic, images(n, torch.float32), engine="linearized").path == "linearized"


def test_other_operations_on_the_same_images_are_proved_in_the_next_step():
    """Their forward was rounded before it was known that they were others."""
    critic, switch = deep(), [False]

    def call(x):
        return critic(F.leaky_relu(x, 0.9) if switch[0] else x)

    assert step(call).path == "linearized"
    switch[0] = True
    for engine, expected in (("linearized", "double_backward"), ("auto", "linearized"), ("linearized", "linearized")):
        out = step(call, engine=engine)
        assert out.path == expected, out.reason
        assert ("waits for the next step" in out.reason) == (expected == "double_backward")


def test_without_rounding_nothing_waits(monkeypatch):
    monkeypatch.setattr(proof, "rounds_float32", lambda device: False)
    critic, real, switch = deep(), images(dtype=torch.float32), [False]

    def call(x):
        return critic(F.leaky_relu(x, 0.9) if switch[0] else x)

    for switch[0] in (False, True):
        assert penalized_loss(call, real, None, of_real, [R1()]).path == "linearized"


@pytest.mark.parametrize("chosen", ["highest", "high", "medium"])
def test_the_settings_are_set_back(chosen):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(chosen)
        settings = [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32]
        assert rounds_float32("cpu") == (chosen != "highest")

        def within():
            assert not rounds_float32("cpu")
            assert not rounds_float32("cuda")
            raise ArithmeticError

        with pytest.raises(ArithmeticError):
            FULL_FLOAT32.run(within)
        assert [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32] == settings
        assert torch.get_float32_matmul_precision() == chosen
    finally:
        torch.set_float32_matmul_precision(before)
