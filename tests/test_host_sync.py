"""No public op and no training step makes the host wait for a GPU, but for the first time: tried on the CPU."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan import backends, filters
from fastgan.compat.families import fused_leaky_relu
from fastgan.optim import clean_gradients, ema_update
from fastgan.penalty import R1, R2, WGANGP, path_length_penalty, penalized_loss
from fastgan.train.models import SPECTRAL_NORMS, Discriminator, Generator
from fastgan.train.sampler import Sampler
from fastgan.train.step import Batch, train_step
from host_sync import HostWaitedError, NoHostWait, after_first
from public_ops import BEFORE_A_STEP, FUNCTIONS, MODULES, NOT_MODULES, TAPS_2D, backward

NAMES = [name for name in ("reference", "cpu") if backends.available()[name].ok]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """On a CPU a filter's taps are compared in every call; on a GPU torch's count of changes is asked."""
    monkeypatch.setattr(filters, "_holds", lambda f, known: known is not None and known.filter() is f)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """No memory is filled with NaN: that is not what is tried here."""


@pytest.fixture(params=NAMES)
def chosen(request):
    with fastgan.backend(request.param):
        yield


# --- what the mode sees ---


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x[x > 0],
        lambda x: x.index_put((x > 0,), x.new_zeros(())),
        lambda x: x.masked_select(x > 0),
        lambda x: (x > 0).nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: torch.where(x > 0),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.repeat_interleave(torch.ones(4, dtype=torch.int64)),
        lambda x: 1 if x.sum() > 0 else 0,
    ],
)
def test_what_waits_is_seen(waits):
    x = torch.ones(4)
    waits(x)
    with pytest.raises(HostWaitedError), NoHostWait():
        waits(x)


def test_what_waits_in_a_backward_is_seen():
    class Waiting(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            return dy * dy.sum().item()

    y = Waiting.apply(torch.ones(3, requires_grad=True)).sum()
    with pytest.raises(HostWaitedError), NoHostWait():
        y.backward()


def test_what_does_not_wait_is_let_through():
    with NoHostWait():
        x = torch.ones(4)
        torch.where(x > 0, x, 0)[torch.arange(2)].to(torch.bfloat16).repeat_interleave(2).masked_fill_(x > 2, 0)


# --- public functions and modules ---


def test_every_public_one_is_tried():
    assert set(FUNCTIONS) | BEFORE_A_STEP == set(fastgan.functional.__all__)
    assert set(MODULES) | NOT_MODULES == set(fastgan.nn.__all__)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    after_first(lambda: backward(FUNCTIONS[name]()), times=1)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("name", MODULES)
def test_module(name):
    call = MODULES[name]()
    after_first(lambda: backward(call()), times=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_codebase_s_filter_of_another_dtype(dtype):
    """It becomes float32 once, and is looked at once."""
    kernel, x = TAPS_2D.to(dtype), torch.randn(2, 4, 9, 9, requires_grad=True)
    after_first(lambda: backward([fused_leaky_relu.upfirdn2d(x, kernel, up=2, pad=(2, 1))]), times=1)


def test_the_sampler_s_index_is_where_the_images_are():
    """On the meta device there is nothing that the host could read."""
    sampler, images = Sampler(5, 2, seed=0, device="meta"), torch.empty(5, 3, device="meta")
    for _ in range(6):  # more than an epoch
        index = next(sampler)
        assert index.device == images.device
        assert images[index].shape == (2, 3)


# --- steps ---


def critic(*middle):
    return nn.Sequential(
        nn.utils.spectral_norm(nn.Conv2d(3, 8, 3, padding=1)), nn.LeakyReLU(0.2), nn.AvgPool2d(2), *middle,
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 64, 1),
    )  # fmt: skip


def generator():
    return nn.Sequential(
        nn.Linear(5, 8 * 64), nn.Unflatten(1, (8, 8, 8)), nn.BatchNorm2d(8), nn.ReLU(), nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(8, 3, 1),
        nn.Tanh(),
    )  # fmt: skip


def relativistic(real_logits, fake_logits):
    return F.softplus(fake_logits - real_logits).mean()


class Step:
    """A user's own step: accelerated networks, a penalty, clean gradients, a moving average."""

    def __init__(self, D, penalties, **options):
        torch.manual_seed(0)
        self.G, self.D = generator(), D
        self.average = copy.deepcopy(self.G)
        self.penalties, self.options = penalties, options
        self.report = fastgan.accelerate(self.G, self.D)
        self.optimizers = [torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9) for net in (self.G, self.D)]
        self.path = None

    def __call__(self):
        opt_g, opt_d = self.optimizers
        real, fake = torch.randn(4, 3, 16, 16), self.G(torch.randn(4, 5))
        out = penalized_loss(self.D, real, fake.detach(), relativistic, self.penalties, **self.options)
        opt_d.zero_grad()
        out.loss.backward()
        clean_gradients(self.D)
        opt_d.step()
        opt_g.zero_grad()
        F.softplus(-self.D(fake)).mean().backward()
        clean_gradients(self.G)
        opt_g.step()
        ema_update(self.average, self.G, 0.99, buffers="average")
        self.path = out.path


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize(
    ("make", "penalties", "path"),
    [
        pytest.param(critic, [R1(1.0), R2(1.0)], "linearized", id="linearized"),
        pytest.param(critic, [WGANGP(10.0)], None, id="wgan-gp"),
        pytest.param(lambda: critic(nn.SiLU()), [R1(1.0)], None, id="trunk"),
        pytest.param(lambda: nn.Sequential(nn.BatchNorm2d(3), critic()), [R1(1.0)], "double_backward", id="twice"),
    ],
)  # fmt: skip
def test_step(make, penalties, path):
    step = Step(make(), penalties)
    after_first(step, times=3)
    assert path is None or step.path == path


@pytest.mark.usefixtures("chosen")
def test_penalties_on_one_batch_together():
    after_first(Step(critic(), [R1(1.0), R2(1.0)], together=True), times=3)


def test_path_length():
    G, mean = generator(), torch.zeros(())

    def call():
        z = torch.randn(4, 5, requires_grad=True)
        loss, _ = path_length_penalty(G, z, mean)
        loss.backward()

    after_first(call)


def test_clean_gradients_as_a_gpu_takes_them():
    """Tensors on the meta device have no values that the host could read, and go the way of a GPU's."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).double()).to("meta")
    for p in net.parameters():
        p.grad = torch.empty_like(p)
    clean_gradients(net)
    ema_update(net, copy.deepcopy(net), 0.9, buffers="average")


@pytest.mark.parametrize("blocks", ["torch", "fused"])
@pytest.mark.parametrize("penalties", [[], [R1(1.0)]], ids=["plain", "r1"])
def test_train_step(blocks, penalties):
    torch.manual_seed(0)
    G, D = Generator(width=8, channels=1, blocks=blocks), Discriminator(8, 1, blocks)
    SPECTRAL_NORMS["grouped"](D)
    average = copy.deepcopy(G)
    opts = [torch.optim.SGD(net.parameters(), 1e-3) for net in (G, D)]
    batches = [Batch(torch.randn(2, 1, 32, 32)) for _ in range(2)]
    options = {"latents": lambda real: torch.randn(len(real), G.z_dim), "ema_decay": 0.99, "penalties": penalties}
    after_first(lambda: train_step(G, D, average, *opts, batches, **options), times=2)
