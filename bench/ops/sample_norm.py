"""Ops on a batch of images: the norm or squared norm of every sample, and interpolates of two batches.

Modes: "forward" of batches that need no gradient, and "forward+backward" with the gradient of every batch.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

import fastgan.functional
from fastgan.bench import small
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within

DTYPE = torch.float32
BASELINE = "torch"
SHAPES = ((16, 3, 64, 64), (64, 3, 32, 32), (64, 3, 256, 256))


def _torch_interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    eps = eps.view(-1, 1, 1, 1)
    return eps * real + (1 - eps) * fake


def _interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    return fastgan.functional.interpolate(real, fake, eps)


class Kind(NamedTuple):
    """An op in torch and in fastgan, its batches, and how many batches it moves through memory.

    Both functions take the batches, then a value per sample if the result is a batch.
    """

    torch: Callable[..., Tensor]
    ours: Callable[..., Tensor]
    batches: int
    moved: dict[str, int]


KINDS = {
    "norm": Kind(
        lambda x: torch.linalg.vector_norm(x.flatten(1), dim=1),
        lambda x: fastgan.functional.sample_norm(x),
        batches=1,
        moved={"forward": 1, "forward+backward": 3},
    ),
    "squared": Kind(
        lambda x: x.flatten(1).square().sum(1),
        lambda x: fastgan.functional.sample_norm(x, squared=True),
        batches=1,
        moved={"forward": 1, "forward+backward": 3},
    ),
    "interpolate": Kind(_torch_interpolate, _interpolate, batches=2, moved={"forward": 3, "forward+backward": 7}),
}


class State(NamedTuple):
    """What all contenders start from: batches, values per sample if there are any, and the gradient that arrives."""

    batches: list[Tensor]
    values: list[Tensor]
    grad: Tensor

    def outputs(self, function: Callable[..., Tensor], dtype: torch.dtype = DTYPE) -> list[Tensor]:
        """The result, and the gradient of every batch."""
        batches = [batch.to(dtype).requires_grad_() for batch in self.batches]
        y = function(*batches, *(c.to(dtype) for c in self.values))
        return [y.detach(), *torch.autograd.grad(y, batches, self.grad.to(dtype))]


def _contender(
    state: State, expected: Sequence[Tensor], function: Callable[..., Tensor], chosen: str | None = None
) -> Contender:
    batches = [batch.clone().requires_grad_() for batch in state.batches]

    def forward() -> list[Tensor]:
        return [function(*state.batches, *state.values)]

    def forward_backward() -> list[Tensor]:
        y = function(*batches, *state.values)
        return [y, *torch.autograd.grad(y, batches, state.grad)]

    def error(run: Callable[[], list[Tensor]]) -> float:
        outputs = [y.detach() for y in run()]
        return max(map(relative_error, outputs, expected))

    runs = {"forward": forward, "forward+backward": forward_backward}
    return Contender(runs, error, context=within(chosen), backend=chosen)


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch and fastgan on one kind of op and one shape."""
    label, _, sizes = name.partition("-")
    kind, shape = KINDS[label], tuple(map(int, sizes.split("x")))
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DTYPE, device=device, generator=generator)

    batches = [random(*shape) for _ in range(kind.batches)]
    values = [random(shape[0])] if kind.batches > 1 else []
    state = State(batches, values, random(*shape) if values else random(shape[0]))
    expected = state.outputs(kind.torch, torch.float64)
    contenders = {BASELINE: lambda: _contender(state, expected, kind.torch)}
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _contender(state, expected, torch.compile(kind.torch))
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        contenders[f"fastgan functional ({chosen})"] = lambda b=chosen: _contender(state, expected, kind.ours, b)
    batch_bytes = prod(shape) * DTYPE.itemsize
    rounding = prod(shape[1:]) ** 0.5 * torch.finfo(DTYPE).eps
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=tuple(kind.moved),
        moved_bytes={mode: count * batch_bytes for mode, count in kind.moved.items()},
        # A sum of n squares, rounded at random.
        baseline_bound=rounding,
        rounding=rounding,
    )


def _small_calls() -> None:
    for dtype, shape, offset in product(small.DTYPES, small.BATCHES, (0, 1)):
        x, fake = (small.values(shape, dtype, offset).requires_grad_() for _ in range(2))
        c = small.values(shape[:1], torch.float64 if dtype == torch.float64 else torch.float32, offset)
        outputs = [fastgan.functional.sample_norm(x, squared=squared) for squared in (True, False)]
        outputs += [fastgan.functional.scale_samples(x, c), fastgan.functional.interpolate(x, fake, c)]
        torch.autograd.grad(outputs, [x, fake], [small.values(y.shape, y.dtype, offset) for y in outputs])


def _op(name: str, kinds: Sequence[str], kernels: Sequence[str]) -> Op:
    def case(kind: str, shape: tuple[int, ...]) -> str:
        return f"{kind}-{'x'.join(map(str, shape))}"

    return Op(
        name=name,
        cases={case(k, s): f"{prod(s) * DTYPE.itemsize / 2**20:.1f} MiB to a batch" for k in kinds for s in SHAPES},
        quick=tuple(case(kind, SHAPES[1]) for kind in kinds),
        workload=workload,
        gpu=tuple(case(kinds[0], shape) for shape in SHAPES[1:]),
        kernels=dict.fromkeys(kernels, _small_calls),
    )


OPS = (
    _op("sample_norm", ("norm", "squared"), ("sample_norm", "scale_samples")),
    _op("interpolate", ("interpolate",), ("interpolate",)),
)
