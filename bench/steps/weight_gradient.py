"""A 3x3 convolution's weight gradient as a double backward takes it, against an ordinary one of the same layer.

    dx = I(g, w), the input's gradient          d<dx, h>/dw = W(g, h) = d<conv(h, w), g>/dw

torch computes the left side as a convolution whose kernel is a whole feature map, `efficient_convolutions` as what it
is, and "ordinary" is the right side. Mode "weight gradient": that alone, the graph before it is there.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.bench.workload import Contender, Op, Workload, relative_error, within
from fastgan.penalty import efficient_convolutions

BASELINE = "torch, double backward"
MODE = "weight gradient"
BATCH = {"cpu": 2, "cuda": 32}
# By resolution, as critics have them: less on the CPU.
CHANNELS = {
    16: {"cpu": 64, "cuda": 512},
    32: {"cpu": 32, "cuda": 512},
    64: {"cpu": 16, "cuda": 256},
    128: {"cpu": 8, "cuda": 128},
    256: {"cpu": 4, "cuda": 64},
}
# bfloat16 is measured as it is trained with, in channels_last.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FORMATS = {torch.float32: torch.contiguous_format, torch.bfloat16: torch.channels_last}
CASES = {f"conv3x3-{size}-{dtype}": (size, DTYPES[dtype]) for dtype in DTYPES for size in CHANNELS}


def _double_backward(g: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """What w's gradient is taken of, and the gradient that arrives there."""
    x = torch.zeros_like(h).requires_grad_()
    (dx,) = torch.autograd.grad(F.conv2d(x, w, padding=1), x, g, create_graph=True)
    return dx, h


def _ordinary(g: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The same number, from the forward."""
    return F.conv2d(h, w, padding=1), g


def _contender(
    tensors: Sequence[Tensor],
    expected: Tensor,
    of: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    convolutions: Callable[[], AbstractContextManager] = nullcontext,
    chosen: str | None = None,
) -> Contender:
    g, h, w = (t.clone() for t in tensors)
    w.requires_grad_()
    built: tuple[Tensor, Tensor] | None = None

    def build() -> None:
        """Again before every run: on a GPU a backward belongs to the stream on which its graph was built."""
        nonlocal built
        with convolutions():
            built = of(g, h, w)

    def run() -> Tensor:
        y, dy = built
        return torch.autograd.grad(y, w, dy, retain_graph=True)[0]

    return Contender({MODE: run}, lambda run: relative_error(run(), expected), build, within(chosen), chosen)


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """The three ways to one gradient."""
    size, dtype = CASES[name]
    channels, generator = CHANNELS[size][device.type], torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        t = torch.randn(shape, device=device, generator=generator)
        return t.to(dtype, memory_format=FORMATS[dtype])

    shape = BATCH[device.type], channels, size, size
    tensors = [random(*shape), random(*shape), random(channels, channels, 3, 3)]
    g, h, w = (t.double() for t in tensors)
    y, dy = _ordinary(g, h, w.requires_grad_())
    (expected,) = torch.autograd.grad(y, w, dy)
    contenders = {
        BASELINE: lambda: _contender(tensors, expected, _double_backward),
        "torch, ordinary": lambda: _contender(tensors, expected, _ordinary),
    }
    for chosen in backend_names:
        contenders[f"fastgan efficient_convolutions ({chosen})"] = lambda b=chosen: _contender(
            tensors, expected, _double_backward, efficient_convolutions, b
        )
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped={"torch.compile": "it does not differentiate twice"},
        modes=(MODE,),
        moved_bytes={},
        # Sums over all of a feature map, which CUDA may compute in TF32.
        baseline_bound=1e-2,
        # Sums of thousands of values, rounded at random.
        rounding=64 * torch.finfo(dtype).eps,
    )


OPS = (
    Op(
        name="weight_gradient",
        cases={
            name: f"{CHANNELS[size]['cpu']} channels, batch {BATCH['cpu']} "
            f"(GPU {CHANNELS[size]['cuda']}, {BATCH['cuda']}), {dtype}".replace("torch.", "")
            for name, (size, dtype) in CASES.items()
        },
        quick=("conv3x3-16-fp32", "conv3x3-64-fp32"),
        workload=workload,
        gpu=("conv3x3-16-fp32", "conv3x3-64-bf16"),
    ),
)
