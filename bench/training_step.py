"""A whole update of an SNGAN's discriminator: two forwards, hinge loss, backward, Adam; only spectral norm differs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.bench.workload import Contender, Op, Workload, relative_error, within
from fastgan.train.models import IMAGE_SIZE, Discriminator, grouped_spectral_norm, torch_spectral_norm
from fastgan.train.step import hinge_d

Loss = Callable[[Tensor, Tensor], Tensor]

BASELINE = "torch parametrization"


class Case(NamedTuple):
    """The discriminator's width, and the shape of a batch."""

    width: int
    channels: int
    batch: int


CASES = {"sngan-digits": Case(width=32, channels=1, batch=32), "sngan-cifar": Case(width=128, channels=3, batch=64)}


class Setup(NamedTuple):
    """What all contenders start from, and the gradient in float64 of the first step, all parameters in one vector."""

    case: Case
    state: dict[str, Tensor]
    real: Tensor
    fake: Tensor
    expected: Tensor


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch's spectral norm and the grouped one in the same step."""
    setup = _setup(CASES[name], device)
    contenders = {BASELINE: lambda: _contender(setup, torch_spectral_norm)}
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _contender(setup, torch_spectral_norm, torch.compile)
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        contenders[f"fastgan grouped ({chosen})"] = lambda b=chosen: _contender(setup, grouped_spectral_norm, chosen=b)
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=("step",),
        moved_bytes={},
        # Float32 through nine layers of convolutions, which CUDA may compute in TF32.
        baseline_bound=1e-2,
        rounding=torch.finfo(torch.float32).eps,
    )


def _setup(case: Case, device: torch.device) -> Setup:
    torch.manual_seed(0)
    D = Discriminator(case.width, case.channels).to(device)
    torch_spectral_norm(D)
    state = {key: value.clone() for key, value in D.state_dict().items()}
    shape = (case.batch, case.channels, IMAGE_SIZE, IMAGE_SIZE)
    real, fake = (torch.rand(shape, device=device) * 2 - 1 for _ in range(2))
    D.double()
    hinge_d(D(real.double()), D(fake.double())).backward()
    return Setup(case, state, real, fake, _gradient(D))


def _contender(
    setup: Setup,
    spectral_norm: Callable[[nn.Module], None],
    transform: Callable[[Loss], Loss] = lambda loss: loss,
    chosen: str | None = None,
) -> Contender:
    D = Discriminator(setup.case.width, setup.case.channels).to(setup.real.device)
    spectral_norm(D)
    D.load_state_dict(setup.state)
    # Both forwards in one function: torch.compile of D alone cannot do two forwards before a backward, as u changes.
    loss_d = transform(lambda real, fake: hinge_d(D(real), D(fake)))
    # A rate so small that the network, and with it the work, stays as it is however often it is timed.
    optimizer = torch.optim.Adam(D.parameters(), lr=1e-9, betas=(0.0, 0.9), capturable=setup.real.is_cuda)

    def step() -> None:
        loss = loss_d(setup.real, setup.fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def error(run: Callable[[], object]) -> float:
        D.load_state_dict(setup.state)
        run()
        return relative_error(_gradient(D), setup.expected)

    return Contender({"step": step}, error, context=within(chosen), backend=chosen)


def _gradient(D: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in D.parameters()])


OP = Op(
    name="training_step",
    cases={
        name: f"{IMAGE_SIZE}x{IMAGE_SIZE}x{case.channels}, width {case.width}, batch {case.batch}; Miyato et al. 2018"
        for name, case in CASES.items()
    },
    quick=("sngan-digits",),
    workload=workload,
)
