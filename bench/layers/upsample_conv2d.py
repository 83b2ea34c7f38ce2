"""Convolutions with resampling, as one operation and as codebases write them.

Modes: "forward" of tensors that need no gradient, and "forward+backward" with the gradients of input, weight and bias.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import fastgan.functional
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within
from fastgan.convolution import resampled_forms
from fastgan.convolution.resampled_forms import FORMS, Geometry

# As networks are trained there.
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
BASELINE = "torch"
# The layers of generators, from the image that comes in: batch, channels in, channels out, its height and width.
LAYERS = {
    "256-256-4": (16, 256, 256, 4),
    "256-256-8": (16, 256, 256, 8),
    "256-256-16": (16, 256, 256, 16),
    "256-256-4-n64": (64, 256, 256, 4),
    "512-512-4": (16, 512, 512, 4),
    "512-256-8": (16, 512, 256, 8),
    "128-128-8-n64": (64, 128, 128, 8),
    "128-64-32": (16, 128, 64, 32),
    "64-32-64": (4, 64, 32, 64),
}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


class Kind(NamedTuple):
    """An op in torch and in fastgan; `up` says whether it upsamples."""

    torch: Callable[..., Tensor]
    ours: Callable[..., Tensor]
    up: bool


def _torch_up(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)


def _torch_down(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


KINDS = {
    "upsample_conv2d": Kind(_torch_up, fastgan.functional.upsample_conv2d, up=True),
    "conv_downsample2d": Kind(_torch_down, fastgan.functional.conv_downsample2d, up=False),
}


class State(NamedTuple):
    """What all contenders start from: x, weight and bias, and the gradient that arrives."""

    inputs: list[Tensor]
    grad: Tensor

    def exact(self, function: Callable[..., Tensor]) -> list[Tensor]:
        """The result and the gradients of the inputs in float64."""
        inputs = [t.double().requires_grad_() for t in self.inputs]
        y = function(*inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, self.grad.double())]


def _contender(
    state: State, expected: Sequence[Tensor], function: Callable[..., Tensor], chosen: str | None = None
) -> Contender:
    inputs = [t.clone().requires_grad_() for t in state.inputs]

    def forward() -> list[Tensor]:
        return [function(*state.inputs)]

    def forward_backward() -> list[Tensor]:
        y = function(*inputs)
        return [y, *torch.autograd.grad(y, inputs, state.grad)]

    def error(run: Callable[[], list[Tensor]]) -> float:
        return max(map(relative_error, [y.detach() for y in run()], expected))

    runs = {"forward": forward, "forward+backward": forward_backward}
    return Contender(runs, error, context=within(chosen), backend=chosen)


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """Torch and fastgan on one layer in one memory format."""
    label, _, rest = name.partition("-")
    layer, _, layout = rest.rpartition("-")
    kind, (n, c_in, c_out, size) = KINDS[label], LAYERS[layer]
    if not kind.up:
        c_in, c_out, size = c_out, c_in, 2 * size
    generator, dtype = torch.Generator(device).manual_seed(0), DTYPES[device.type]

    def random(*shape: int) -> Tensor:
        made = torch.randn(shape, dtype=dtype, device=device, generator=generator)
        return made.to(memory_format=LAYOUTS[layout]) if len(shape) == 4 else made

    weight = random(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5
    out = 2 * size if kind.up else size // 2
    state = State([random(n, c_in, size, size), weight, random(c_out)], random(n, c_out, out, out))
    expected = state.exact(kind.torch)
    contenders = {BASELINE: lambda: _contender(state, expected, kind.torch)}
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _contender(state, expected, torch.compile(kind.torch))
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        contenders[f"fastgan functional ({chosen})"] = lambda b=chosen: _contender(state, expected, kind.ours, b)
    if device.type == "cuda":  # where no rule was measured: every form beside the one that runs
        g = Geometry(kind.up, (2, 2), (1, 1), (1, 1), 1, None)
        for form in sorted(FORMS[kind.up, False].keys() - {"plain", "pointwise"}):
            contenders[f"fastgan {form} form"] = lambda f=form: _contender(
                state, expected, lambda *inputs: resampled_forms.run(f, *inputs, g)
            )
    rounding = (n * 4 * size * size) ** 0.5 * torch.finfo(dtype).eps
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=("forward", "forward+backward"),
        moved_bytes={},
        # The longest sum is the weight's gradient, rounded at random.
        baseline_bound=rounding,
        rounding=rounding,
    )


def _op(name: str) -> Op:
    def describe(layer: str) -> str:
        n, c_in, c_out, size = LAYERS[layer]
        sizes = [(c_in, size), (c_out, 2 * size)]
        (c, h), (d, w) = sizes if KINDS[name].up else sizes[::-1]
        return f"[{n}, {c}, {h}, {h}] to [{n}, {d}, {w}, {w}]"

    return Op(
        name=name,
        cases={f"{name}-{layer}-{layout}": describe(layer) for layout in LAYOUTS for layer in LAYERS},
        quick=(f"{name}-64-32-64-nchw",),
        workload=workload,
        gpu=(f"{name}-64-32-64-nchw", f"{name}-256-256-16-nhwc"),
    )


OPS = tuple(map(_op, KINDS))
