from dataclasses import replace

import pytest
import torch
from training_runs import state_of

from fastgan.bench.train_comparison import SIDES
from fastgan.penalty import R1, penalized_loss
from fastgan.train.data import to_real
from fastgan.train.sample import generate, save_grid
from fastgan.train.step import PENALTIES, Batch, hinge_d, hinge_g, train_step


def latents(tiny):
    return lambda real: torch.randn(len(real), tiny.z_dim, dtype=real.dtype)


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.5, 1.0])
    assert hinge_d(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1.5 + 2) / 3)
    assert hinge_g(fake).item() == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("penalty", ["none", "r1r2"])
def test_fastgan_equals_torch_over_20_steps(tiny, images, penalty):
    """Losses, parameters and buffers of a GAN in float64, with fastgan's layers and with torch's."""
    tiny = replace(tiny, penalty=penalty)
    states = [state_of(replace(tiny, **side), images, torch.float64) for side in SIDES.values()]
    losses = []
    for state in states:
        # Some biases' gradients are zero on paper. With its usual eps Adam makes whole steps out of their rounding.
        for optimizer in (state.opt_g, state.opt_d):
            optimizer.param_groups[0]["eps"] = 1e-3
        torch.manual_seed(0)
        losses.append([state.advance() for _ in range(20)])
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)
    for network in ("G", "D", "ema"):
        torch.testing.assert_close(*(getattr(s, network).state_dict() for s in states), rtol=1e-9, atol=1e-12)


def changed(network, before):
    return any(not torch.equal(p, before[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize("frozen", ["G", "D"])
def test_each_optimizer_moves_its_own_network(tiny, images, frozen):
    state = state_of(replace(tiny, **{"lr_g" if frozen == "G" else "lr_d": 0.0}), images)
    before = {name: {k: p.detach().clone() for k, p in getattr(state, name).named_parameters()} for name in "GD"}
    state.advance()
    for name in "GD":
        assert changed(getattr(state, name), before[name]) == (name != frozen)


def test_the_step_is_what_it_says(tiny, images):
    """Against its definition written out: per batch D's update on real then fake, then G's, then the average."""
    state, plain = (state_of(tiny, images, torch.float64) for _ in range(2))
    reals = [to_real(images.pixels[i : i + 4], torch.float64) for i in (0, 4)]
    batches = [Batch(real) for real in reals]
    G, D, before = plain.G, plain.D, {k: p.detach().clone() for k, p in plain.ema.named_parameters()}

    torch.manual_seed(5)
    for real in reals:
        z = torch.randn(4, tiny.z_dim, dtype=torch.float64)
        with torch.no_grad():
            statistics = {name: b.clone() for name, b in G.named_buffers()}
            fake = G(z)
        loss_d = (1 - D(real)).clamp(min=0).mean() + (1 + D(fake)).clamp(min=0).mean()
        plain.opt_d.zero_grad()
        loss_d.backward()
        plain.opt_d.step()
    G.load_state_dict(statistics, strict=False)  # the definition below runs G a second time on the last latents
    loss_g = -D(G(z)).mean()
    plain.opt_g.zero_grad()
    loss_g.backward()
    plain.opt_g.step()

    torch.manual_seed(5)
    losses = train_step(
        state.G, state.D, state.ema, state.opt_g, state.opt_d, batches, latents=latents(tiny), ema_decay=0.5
    )
    torch.testing.assert_close(losses, {"loss_d": loss_d.detach(), "loss_g": loss_g.detach()}, rtol=1e-10, atol=0)
    for name in "GD":
        found, expected = getattr(state, name).state_dict(), getattr(plain, name).state_dict()
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for name, p in state.ema.named_parameters():
        torch.testing.assert_close(p, (before[name] + dict(G.named_parameters())[name]) / 2)


def plain_penalties(D, real, fake, penalty, weight):
    """Discriminator's hinge loss, and the penalties by name, by double backward."""
    real, fake = real.clone().requires_grad_(), fake.detach().requires_grad_()
    real_logits, fake_logits = D(real), D(fake)

    def squared_norms(logits, x):
        return torch.autograd.grad(logits.sum(), x, create_graph=True)[0].square().sum((1, 2, 3))

    penalties = {}
    if penalty in ("r1", "r1r2"):
        penalties["r1"] = weight / 2 * squared_norms(real_logits, real).mean()
    if penalty == "r1r2":
        penalties["r2"] = weight / 2 * squared_norms(fake_logits, fake).mean()
    if penalty == "wgan-gp":
        eps = torch.rand(len(real), dtype=real.dtype).view(-1, 1, 1, 1)
        x = (eps * real + (1 - eps) * fake).detach().requires_grad_()
        penalties["wgan_gp"] = weight * (squared_norms(D(x), x).sqrt() - 1).square().mean()
    return hinge_d(real_logits, fake_logits), penalties


@pytest.mark.parametrize("penalty", ["r1", "r1r2", "wgan-gp"])
def test_penalties_are_what_they_say(tiny, images, penalty):
    """The third of three updates is the second that has a penalty, which counts twice."""
    state, plain = (state_of(tiny, images, torch.float64) for _ in range(2))
    for optimizer in (state.opt_d, plain.opt_d):  # it makes whole steps of roundings, with its usual eps
        optimizer.param_groups[0]["eps"] = 1e-3
    reals = [to_real(images.pixels[i : i + 4], torch.float64) for i in (0, 3, 6)]
    batches = [Batch(real) for real in reals]
    torch.manual_seed(5)
    for update, real in enumerate(reals, 4):
        fake = plain.G(torch.randn(4, tiny.z_dim, dtype=torch.float64))
        if update % 2 == 0:
            loss_d, penalties = plain_penalties(plain.D, real, fake, penalty, weight=3.0)
        else:
            loss_d = hinge_d(plain.D(real), plain.D(fake.detach()))
        plain.opt_d.zero_grad()
        (loss_d + 2 * sum(penalties.values()) if update % 2 == 0 else loss_d).backward()
        plain.opt_d.step()

    torch.manual_seed(5)
    losses = train_step(
        *(state.G, state.D, state.ema, state.opt_g, state.opt_d, batches),
        latents=latents(tiny),
        ema_decay=0.5,
        penalties=PENALTIES[penalty](3.0),
        penalty_every=2,
        updates=4,
    )
    del losses["loss_g"]
    expected = {"loss_d": loss_d.detach(), **{name: 2 * value.detach() for name, value in penalties.items()}}
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=0)
    for found, wanted in zip(state.D.parameters(), plain.D.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def test_lazy_penalties_count_updates_across_steps(tiny, images):
    """Two updates per step, a penalty in 0, 3, 6, ...: in steps 0, 1 and 3."""
    state = state_of(replace(tiny, penalty="r1", penalty_every=3), images)
    assert ["r1" in state.advance() for _ in range(4)] == [True, True, False, True]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("penalty", ["none", "r1r2", "wgan-gp"])
def test_bfloat16_is_float32_to_its_rounding(tiny, images, penalty, plain):
    """Losses of the first step; parameters, averages and optimizers stay float32."""
    results = []
    for precision in ("fp32", "bf16"):
        state = state_of(replace(tiny, penalty=penalty, plain=plain, precision=precision, n_critic=1), images)
        results.append(state.advance())
        tensors = [p for network in (state.G, state.D, state.ema) for p in network.parameters()]
        tensors += [t for o in (state.opt_g, state.opt_d) for entry in o.state.values() for t in entry.values()]
        assert {t.dtype for t in tensors} == {torch.float32}
    exact, rounded = results
    assert exact.keys() == rounded.keys()
    for name, value in exact.items():
        # An activation goes through about twenty roundings of 2^-9; a squared norm counts them twice.
        assert abs(rounded[name].float() - value) <= 40 * 2**-9 * (1 + abs(value)), name
    assert any(rounded[name].float() != value for name, value in exact.items())


def test_learning_rates_come_down_in_a_line(tiny, images):
    state = state_of(replace(tiny, steps=4, lr_g=8.0, lr_d=4.0, lr_decay=0.5), images)
    rates = []
    for _ in range(6):
        state.advance()
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in (state.opt_g, state.opt_d)])
    assert rates == [[8, 4], [7, 3.5], [6, 3], [5, 2.5], [4, 2], [4, 2]]


@pytest.mark.parametrize("plain", [False, True])
def test_the_discriminator_is_linearized(tiny, images, plain):
    D = state_of(replace(tiny, plain=plain), images).D
    real = to_real(images.pixels[:4])
    out = penalized_loss(D, real, real, adversarial=hinge_d, penalties=[R1()], engine="linearized")
    assert out.path == "linearized"


def test_generate_uses_running_statistics_and_keeps_the_mode(tiny, images):
    G = state_of(tiny, images).G
    z = torch.randn(4, tiny.z_dim)
    statistics = {name: b.clone() for name, b in G.named_buffers()}
    together, alone = generate(G, z), generate(G, z[:1])
    torch.testing.assert_close(together[:1], alone)
    assert G.training
    assert all(torch.equal(b, statistics[name]) for name, b in G.named_buffers())
    assert together.shape == (4, 1, 32, 32)
    assert together.abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_places_images_in_rows(tmp_path, channels):
    import numpy as np
    from PIL import Image

    levels = torch.tensor([-1.0, -0.5, 0.0, 0.5, 3.0])
    save_grid(levels.view(5, 1, 1, 1).expand(5, channels, 4, 4), tmp_path / "grid.png", scale=1, gap=1)
    grid = np.asarray(Image.open(tmp_path / "grid.png")).reshape(11, 16, channels)
    centres = grid[3::5, 3::5, 0]
    assert centres.tolist() == [[0, 64, 128], [191, 255, 255]]
    assert (grid[::5] == 255).all()
