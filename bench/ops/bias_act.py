"""Bias, activation, gain and clamp: the chain of four operations as codebases write it, and the op in one pass.

A case is named activation-dtype-layout-shape. Modes: "forward" where nothing needs a gradient, and "forward+backward"
with the gradients of the activations and of the bias.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan.functional
from fastgan.bench import peers, small
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within

BASELINE = "torch"
CLAMP = 256.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# By activation: torch's, and the gain.
ACTS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "linear": (lambda z: z, 1.0),
    "relu": (F.relu, sqrt(2)),
    "lrelu": (lambda z: F.leaky_relu(z, 0.2), sqrt(2)),
    "tanh": (torch.tanh, 1.0),
    "sigmoid": (torch.sigmoid, 1.0),
    "elu": (F.elu, 1.0),
    "selu": (F.selu, 1.0),
    "softplus": (F.softplus, 1.0),
    "swish": (F.silu, sqrt(2)),
    "gelu": (F.gelu, 1.0),
}
SHAPES = ((16, 64, 64, 64), (8, 512, 16, 16), (32, 128, 32, 32), (4, 32, 128, 128))
# Tensors through memory: forward x, y; backward dy, y (or x), dx, and dx again for the bias.
MOVED = {"forward": 2, "forward+backward": 6}


class State(NamedTuple):
    """What all contenders start from."""

    x: Tensor
    b: Tensor
    dy: Tensor

    def to(self, dtype: torch.dtype) -> "State":
        """The same values in another dtype."""
        return State(*(t.to(dtype) for t in self))


def _plain(act: str) -> Callable[[Tensor, Tensor], Tensor]:
    function, gain = ACTS[act]

    def run(x: Tensor, b: Tensor) -> Tensor:
        y = function(x + b.view(1, -1, 1, 1))
        if gain != 1:
            y = y * gain
        return y.clamp(-CLAMP, CLAMP)

    return run


def _fused(bias_act: Callable[..., Tensor], act: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, b: bias_act(x, b, act=act, clamp=CLAMP)


def _forward_backward(function: Callable[[Tensor, Tensor], Tensor], state: State) -> list[Tensor]:
    y = function(state.x, state.b)
    return [y.detach(), *torch.autograd.grad(y, (state.x, state.b), state.dy)]


def _contender(
    state: State, expected: Sequence[Tensor], function: Callable[..., Tensor], chosen: str | None = None
) -> Contender:
    leaves = State(state.x.clone().requires_grad_(), state.b.clone().requires_grad_(), state.dy)
    runs = {
        "forward": lambda: [function(state.x, state.b)],
        "forward+backward": lambda: _forward_backward(function, leaves),
    }

    def error(run: Callable[[], list[Tensor]]) -> float:
        return max(map(relative_error, run(), expected))

    return Contender(runs, error, context=within(chosen), backend=chosen)


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch and fastgan on one activation, dtype, layout and shape."""
    act, dtype_name, layout, sizes = name.split("-")
    dtype, shape = DTYPES[dtype_name], tuple(map(int, sizes.split("x")))
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    x, dy = (random(*shape).to(memory_format=LAYOUTS[layout]) for _ in range(2))
    state = State(x, random(shape[1]), dy)
    exact = state.to(torch.float64)
    expected = _forward_backward(_plain(act), State(exact.x.requires_grad_(), exact.b.requires_grad_(), exact.dy))
    plain = _plain(act)
    contenders = {BASELINE: lambda: _contender(state, expected, plain)}
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _contender(state, expected, torch.compile(plain))
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for peer, bias_act in peers.functions("bias_act").items():
        contenders[peer] = lambda f=bias_act: _contender(state, expected, _fused(f, act))
    ours = _fused(fastgan.functional.bias_act, act)
    for chosen in backend_names:
        contenders[f"fastgan functional ({chosen})"] = lambda b=chosen: _contender(state, expected, ours, b)
    eps = torch.finfo(dtype).eps
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=tuple(MOVED),
        moved_bytes={mode: count * prod(shape) * dtype.itemsize for mode, count in MOVED.items()},
        # A few roundings of every value; a sum over a channel adds them at random.
        baseline_bound=8 * eps,
        rounding=8 * eps,
    )


def _case(act: str, dtype: str, layout: str, shape: tuple[int, ...]) -> str:
    return f"{act}-{dtype}-{layout}-{'x'.join(map(str, shape))}"


def _cases() -> dict[str, str]:
    named = [("lrelu", dtype, layout, shape) for shape in SHAPES for dtype in DTYPES for layout in LAYOUTS]
    named += [(act, dtype, "nchw", SHAPES[2]) for act in ACTS if act != "lrelu" for dtype in DTYPES]
    return {_case(*case): f"{prod(case[3]) * DTYPES[case[1]].itemsize / 2**20:.0f} MiB to a tensor" for case in named}


def _small_calls() -> None:
    for dtype, shape, offset, act in product(small.DTYPES, small.BATCHES, (0, 1), ("relu", "tanh", "gelu")):
        b = small.values(shape[1:2], dtype, offset).requires_grad_()
        for last in (False, True):
            x, dy = (small.values(shape, dtype, offset, last).requires_grad_() for _ in range(2))
            y = fastgan.functional.bias_act(x, b, act=act, clamp=1)
            dx, _ = torch.autograd.grad(y, (x, b), dy, create_graph=True)
            torch.autograd.grad(dx, (dy, x) if act != "relu" else dy, dy.detach())


OPS = (
    Op(
        name="bias_act",
        cases=_cases(),
        quick=(_case("lrelu", "float32", "nchw", SHAPES[1]), _case("lrelu", "bfloat16", "nhwc", SHAPES[1])),
        workload=workload,
        gpu=(_case("lrelu", "float32", "nchw", SHAPES[1]), _case("lrelu", "bfloat16", "nhwc", SHAPES[0])),
        kernels={"bias_act": _small_calls, "sum_channels": _small_calls},
    ),
)
