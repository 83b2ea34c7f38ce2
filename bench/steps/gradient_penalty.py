"""A critic's loss with a gradient penalty, and its backward: as codebases write it, plain torch at its best, and ours.

Mode "step": every parameter's gradient of the loss of one batch (no optimizer), from parameters without gradients.
"separate" gives a penalty a forward of its own, "shared forward" runs the critic once on each batch. They, and
torch.compile, differentiate twice, and so does the first of them on a critic that is accelerated; the error is against
shared forward in float64. Cases in bf16 run the critic's
forward under autocast, and all of it in channels_last.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgan
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within
from fastgan.penalty import R1, R2, WGANGP, PenalizedLoss, penalized_loss
from fastgan.train.models import Discriminator

SEPARATE = "separate"
SHARED = "shared forward"
# Why a loss has no such form.
NOT_SO = {
    SEPARATE: "code with this loss runs the critic once per batch",
    SHARED: "no batch serves both adversarial loss and penalty",
}
GAMMA = 10.0
WEIGHT = 10.0

# --- critics ---


def dcgan(width: int = 64, halvings: int = 4, norm: bool = False) -> nn.Module:
    """DCGAN's convolutions, five for 64x64 images, without batch norm; WGAN-GP's code has instance norm, or none."""
    widths = (3, *(width * 2**i for i in range(halvings)))
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        norms = [nn.InstanceNorm2d(c_out, affine=True)] * (norm and c_in > 3)
        layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), *norms, nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4), nn.Flatten(0))


class _BiasedConv2d(nn.Module):
    """Convolution, bias, leaky ReLU; the weight is scaled in the forward."""

    def __init__(self, c_in: int, c_out: int, kernel: int, groups: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.scale = (2 / (c_in // groups * kernel**2)) ** 0.5
        self.groups, self.padding = groups, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight * self.scale, padding=self.padding, groups=self.groups)
        return F.leaky_relu(x + self.bias.view(1, -1, 1, 1), 0.2)


class _GroupedBlock(nn.Module):
    """R3GAN's residual block: 1x1 to twice the channels, grouped 3x3, 1x1 back."""

    def __init__(self, c: int, cardinality: int):
        super().__init__()
        self.body = nn.Sequential(_BiasedConv2d(c, 2 * c, 1), _BiasedConv2d(2 * c, 2 * c, 3, cardinality))
        self.last = nn.Conv2d(2 * c, c, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.body(x))


class _Down(nn.Module):
    """Halves the resolution with the filter [1, 2, 1], then changes the channels."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (taps[:, None] * taps).expand(c_in, 1, 3, 3).contiguous())
        self.channels = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(F.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1]))


def r3gan(widths: Sequence[int] = (64, 128, 256, 256), cardinality: int = 16) -> nn.Module:
    """R3GAN's kind of critic for 32x32 images, small: one grouped residual block per resolution."""
    stages: list[nn.Module] = [nn.Conv2d(3, widths[0], 1)]
    for c_in, c_out in pairwise(widths):
        stages += [_GroupedBlock(c_in, cardinality), _Down(c_in, c_out)]
    c = widths[-1]
    head = (nn.Conv2d(c, c, 4, groups=c, bias=False), nn.Flatten(), nn.Linear(c, 1, bias=False), nn.Flatten(0))
    return nn.Sequential(*stages, _GroupedBlock(c, cardinality), *head)


# --- cases ---


class Case(NamedTuple):
    """A critic, its images, and its loss.

    batch: by device type. adversarial: of real and fake logits; it gets None for the fake ones where `fakes` is False,
    and None for it is the penalty alone. penalties: by name. plain: the plain forms of this loss, first the baseline.
    bf16: autocast, and channels_last. engines: those of penalized_loss that are measured.
    """

    critic: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch: Mapping[str, int]
    adversarial: Callable[[Tensor, Tensor | None], Tensor] | None
    penalties: tuple[str, ...]
    fakes: bool
    plain: tuple[str, ...]
    about: str
    bf16: bool = False
    engines: tuple[str, ...] = ("double_backward", "linearized")


CASES = {
    "dcgan-r1": Case(
        critic=dcgan,
        shape=(3, 64, 64),
        batch={"cpu": 16, "cuda": 256},
        adversarial=lambda real, _: F.softplus(-real).mean(),
        penalties=("r1",),
        fakes=False,
        plain=(SEPARATE, SHARED),
        about="real batch alone, adversarial + R1; five convolutions, 64x64",
    ),
    "dcgan-penalty": Case(
        critic=dcgan,
        shape=(3, 64, 64),
        batch={"cpu": 16, "cuda": 256},
        adversarial=None,
        penalties=("r1",),
        fakes=False,
        plain=(SEPARATE,),
        about="real batch alone, R1 alone, as in StyleGAN2's lazy regularisation; five convolutions, 64x64",
    ),
    "sngan-r1": Case(
        critic=Discriminator,
        shape=(3, 32, 32),
        batch={"cpu": 8, "cuda": 256},
        adversarial=lambda real, _: F.softplus(-real).mean(),
        penalties=("r1",),
        fakes=False,
        plain=(SEPARATE, SHARED),
        about="real batch alone, adversarial + R1; SNGAN's ResNet, 32x32, without spectral norm",
    ),
    "r3gan-step": Case(
        critic=r3gan,
        shape=(3, 32, 32),
        batch={"cpu": 4, "cuda": 256},
        adversarial=lambda real, fake: F.softplus(fake - real).mean(),
        penalties=("r1", "r2"),
        fakes=True,
        # R3GAN's own training code runs the critic once per batch.
        plain=(SHARED,),
        about="relativistic loss + R1 + R2; grouped residual critic, 32x32",
    ),
    "wgan-gp": Case(
        critic=dcgan,
        shape=(3, 64, 64),
        batch={"cpu": 16, "cuda": 256},
        adversarial=lambda real, fake: fake.mean() - real.mean(),
        penalties=("wgan_gp",),
        fakes=True,
        plain=(SEPARATE,),
        about="Wasserstein loss + penalty at interpolates; five convolutions, 64x64",
    ),
    "wgan-gp-32": Case(
        critic=partial(dcgan, halvings=3),
        shape=(3, 32, 32),
        batch={"cpu": 16, "cuda": 256},
        adversarial=lambda real, fake: fake.mean() - real.mean(),
        penalties=("wgan_gp",),
        fakes=True,
        plain=(SEPARATE,),
        about="Wasserstein loss + penalty at interpolates; four convolutions, 32x32",
    ),
}
CASES["wgan-gp-32-instance"] = CASES["wgan-gp-32"]._replace(
    critic=partial(dcgan, halvings=3, norm=True),
    about="the same with instance norm, which is not piecewise linear",
    engines=("double_backward", "auto"),
)

for _name in ("dcgan-r1", "r3gan-step"):
    CASES[f"{_name}-bf16"] = CASES[_name]._replace(bf16=True, about=f"{_name} with autocast and channels_last")

# The penalties as codebases write them, of the input gradient [N, C, H, W].
PLAIN = {
    "r1": lambda g: GAMMA / 2 * g.square().sum((1, 2, 3)).mean(),
    "r2": lambda g: GAMMA / 2 * g.square().sum((1, 2, 3)).mean(),
    "wgan_gp": lambda g: WEIGHT * (g.flatten(1).norm(2, dim=1) - 1).square().mean(),
}
POINTS = {"r1": "real", "r2": "fake", "wgan_gp": "interpolates"}


class Batch(NamedTuple):
    """Images [N, C, H, W], None where the loss has none, and the interpolates' factors [N]."""

    real: Tensor
    fake: Tensor | None
    interpolates: Tensor | None
    eps: Tensor

    def to(self, dtype: torch.dtype) -> "Batch":
        """The same values in another dtype."""
        return Batch(*(None if t is None else t.to(dtype) for t in self))


class Setup(NamedTuple):
    """What all contenders start from, and the gradient in float64, all parameters in one vector."""

    case: Case
    state: dict[str, Tensor]
    batch: Batch
    expected: Tensor


def _setup(case: Case, device: torch.device) -> Setup:
    torch.manual_seed(0)
    D = case.critic().to(device)
    state = {key: value.clone() for key, value in D.state_dict().items()}
    n = case.batch[device.type]
    real, fake = (torch.rand(n, *case.shape, device=device) * 2 - 1 for _ in range(2))
    if case.bf16:
        real, fake = (x.to(memory_format=torch.channels_last) for x in (real, fake))
    eps = torch.rand(n, device=device)
    weights = eps.view(-1, 1, 1, 1)
    interpolates = weights * real + (1 - weights) * fake
    used = {POINTS[name] for name in case.penalties}
    batch = Batch(real, fake if case.fakes else None, interpolates if "interpolates" in used else None, eps)
    D.double()
    _shared_loss(D, case, batch.to(torch.float64), _twice).backward()
    return Setup(case, state, batch, _gradient(D))


# --- plain torch ---


def _twice(D: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N], and their input gradient [N, C, H, W] to be differentiated again."""
    x = x.detach().requires_grad_()
    logits = D(x)
    return logits, torch.autograd.grad(logits.sum(), x, create_graph=True)[0]


def _functional(D: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same by torch.func, which torch.compile takes in one graph."""
    logits, pull_back = torch.func.vjp(D, x)
    return logits, pull_back(torch.ones_like(logits))[0]


def _separate_step(D: nn.Module, case: Case, batch: Batch) -> None:
    if case.adversarial is not None:
        case.adversarial(D(batch.real), None if batch.fake is None else D(batch.fake)).backward()
    for name in case.penalties:
        _, g = _twice(D, getattr(batch, POINTS[name]))
        PLAIN[name](g).backward()


def _shared_loss(
    D: nn.Module, case: Case, batch: Batch, differentiate: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    used = {POINTS[name] for name in case.penalties}
    logits, grads = {}, {}
    for points in ("real", "fake", "interpolates"):
        x = getattr(batch, points)
        if points in used:
            logits[points], grads[points] = differentiate(D, x)
        elif x is not None:
            logits[points] = D(x)
    terms = [PLAIN[name](grads[POINTS[name]]) for name in case.penalties]
    if case.adversarial is not None:
        terms.append(case.adversarial(logits["real"], logits.get("fake")))
    return sum(terms)


# --- contenders ---


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """All ways to the same gradient."""
    setup = _setup(CASES[name], device)
    case, batch = setup.case, setup.batch

    def separate(D: nn.Module) -> Callable[[], None]:
        return lambda: _separate_step(D, case, batch)

    def shared(D: nn.Module) -> Callable[[], None]:
        return lambda: _shared_loss(D, case, batch, _twice).backward()

    def compiled_shared(D: nn.Module) -> Callable[[], None]:
        loss = torch.compile(lambda batch: _shared_loss(D, case, batch, _functional), fullgraph=True)
        return lambda: loss(batch).backward()

    def ours(D: nn.Module, engine: str) -> Callable[[], None]:
        return lambda: _penalized(D, setup, engine).loss.backward()

    contenders, skipped = {}, {}
    for form, step in {SEPARATE: separate, SHARED: shared}.items():
        if form in case.plain:
            contenders[form] = lambda step=step: _contender(setup, step)
        else:
            skipped[form] = NOT_SO[form]
    if compiled:
        contenders["torch.compile"] = lambda: _contender(setup, compiled_shared)
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    as_written = {SEPARATE: separate, SHARED: shared}[case.plain[0]]

    def accelerated(D: nn.Module) -> Callable[[], None]:
        fastgan.accelerate(D)
        as_written(D)()  # it shows that gradients are differentiated
        return as_written(D)

    for chosen in backend_names:
        contenders[f"fastgan accelerate ({chosen})"] = lambda b=chosen: _contender(setup, accelerated, chosen=b)
        for engine in case.engines:
            contenders[f"fastgan {engine} ({chosen})"] = lambda b=chosen, e=engine: _contender(
                setup, lambda D: ours(D, e), chosen=b
            )
    return Workload(
        baseline=case.plain[0],
        contenders=contenders,
        skipped=skipped,
        modes=("step",),
        moved_bytes={},
        # Through a network: bfloat16, or float32, which CUDA may compute in TF32.
        baseline_bound=5e-1 if case.bf16 else 1e-2,
        # One in millions of units is so near its kink that rounding puts it on the other side.
        rounding=2e-2 if case.bf16 else 1e-3,
    )


def way(name: str, device: torch.device) -> PenalizedLoss:
    """What `penalized_loss` makes of a case, when it is left to choose: with its path, and its reason."""
    setup = _setup(CASES[name], device)
    return _penalized(_critic(setup), setup, "auto")


def _penalized(D: nn.Module, setup: Setup, engine: str) -> PenalizedLoss:
    case, batch = setup.case, setup.batch
    kinds = {"r1": R1(GAMMA), "r2": R2(GAMMA), "wgan_gp": WGANGP(WEIGHT, eps=batch.eps)}
    penalties = [kinds[name] for name in case.penalties]
    return penalized_loss(D, batch.real, batch.fake, adversarial=case.adversarial, penalties=penalties, engine=engine)


def _critic(setup: Setup) -> nn.Module:
    D = setup.case.critic().to(setup.batch.real.device)
    D.load_state_dict(setup.state)
    if setup.case.bf16:
        _use_bf16(D, setup.batch.real.device)
    return D


def _contender(
    setup: Setup, step_of: Callable[[nn.Module], Callable[[], None]], chosen: str | None = None
) -> Contender:
    D = _critic(setup)

    def error(run: Callable[[], object]) -> float:
        run()
        return relative_error(_gradient(D), setup.expected)

    return Contender({"step": step_of(D)}, error, lambda: D.zero_grad(set_to_none=True), within(chosen), chosen)


def _use_bf16(D: nn.Module, device: torch.device) -> None:
    D.to(memory_format=torch.channels_last)
    forward = torch.autocast(device.type, torch.bfloat16)(D.forward)
    D.forward = lambda x: forward(x).float()


def _gradient(D: nn.Module) -> Tensor:
    """All parameters' gradients in one vector; a parameter that none reached has a gradient of zero."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in D.parameters()])


OPS = (
    Op(
        name="gradient_penalty",
        cases={
            name: f"{case.about}, batch {case.batch['cpu']} (GPU {case.batch['cuda']})" for name, case in CASES.items()
        },
        quick=("dcgan-r1", "r3gan-step"),
        workload=workload,
        gpu=("dcgan-r1", "r3gan-step", "wgan-gp", "dcgan-r1-bf16", "r3gan-step-bf16"),
    ),
)
