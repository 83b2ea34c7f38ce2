"""Residual blocks: fastgan's against the same in plain torch, forward+backward in training mode."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.bench.workload import Contender, Op, Workload, relative_error, within
from fastgan.train.models import BLOCKS

BASELINE = "torch"


class Case(NamedTuple):
    """Which block of `fastgan.train.models.Blocks`, from how many channels to how many, and a batch's N, H and W."""

    block: str
    c_in: int
    c_out: int
    batch: int
    size: int


CASES = {
    f"{name}-{case.c_in}-{case.c_out}-{case.size}": case
    for name, case in [
        ("gblock", Case("up", 256, 256, 64, 4)),
        ("gblock", Case("up", 256, 256, 64, 8)),
        ("gblock", Case("up", 256, 256, 64, 16)),
        ("gblock", Case("up", 64, 32, 8, 64)),
        ("dblock-first", Case("first_down", 3, 128, 64, 32)),
        ("dblock-down", Case("down", 128, 128, 64, 16)),
        ("dblock-down", Case("down", 192, 384, 16, 32)),
        ("dblock", Case("same", 128, 128, 64, 8)),
    ]
}
MODES = ("forward", "forward+backward")


class Setup(NamedTuple):
    """What all contenders start from, and by mode what is true in float64."""

    state: dict[str, Tensor]
    x: Tensor
    dy: Tensor
    expected: dict[str, list[Tensor]]


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch and fastgan on one block."""
    case = CASES[name]
    make = {blocks: partial(getattr(layers, case.block), case.c_in, case.c_out) for blocks, layers in BLOCKS.items()}
    torch.manual_seed(0)
    plain = make["torch"]()
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    x = torch.randn(case.batch, case.c_in, case.size, case.size)
    dy = torch.randn_like(plain(x))
    plain.load_state_dict(state)
    runs = _runs(plain.double(), x.double(), dy.double())
    setup = Setup(
        state, x.to(device), dy.to(device), {mode: [y.to(device) for y in run()] for mode, run in runs.items()}
    )
    contenders = {BASELINE: lambda: _contender(setup, make["torch"]())}
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _contender(setup, make["torch"](), torch.compile)
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        contenders[f"fastgan ({chosen})"] = lambda b=chosen: _contender(setup, make["fused"](), chosen=b)
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=MODES,
        moved_bytes={},
        # Float32 through three convolutions, which CUDA may compute in TF32.
        baseline_bound=1e-2,
        # One in millions of units is so near its kink that rounding puts it on the other side.
        rounding=1e-3,
    )


def _runs(block: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Callable[[], list[Tensor]]]:
    x = x.clone().requires_grad_()

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [block(x)]

    def forward_backward() -> list[Tensor]:
        y = block(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *block.parameters()], dy)]

    return dict(zip(MODES, (forward, forward_backward), strict=True))


def _contender(
    setup: Setup,
    block: nn.Module,
    transform: Callable[[nn.Module], nn.Module] = lambda block: block,
    chosen: str | None = None,
) -> Contender:
    block.load_state_dict(setup.state)
    runs = _runs(transform(block.to(setup.x.device)), setup.x, setup.dy)
    expected = {run: setup.expected[mode] for mode, run in runs.items()}

    def error(run: Callable[[], list[Tensor]]) -> float:
        # All in one vector: the gradient of a bias before a batch norm is rounding alone.
        outputs, truths = (torch.cat([y.flatten() for y in ys]) for ys in (run(), expected[run]))
        return relative_error(outputs, truths)

    return Contender(runs, error, context=within(chosen), backend=chosen)


OPS = (
    Op(
        name="blocks",
        cases={
            name: f"{case.c_in} -> {case.c_out} channels, batch {case.batch} of {case.size}x{case.size}"
            for name, case in CASES.items()
        },
        quick=("gblock-256-256-4", "dblock-128-128-8"),
        workload=workload,
        gpu=("gblock-256-256-4", "gblock-256-256-16"),
    ),
)
