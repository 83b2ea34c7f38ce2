"""Spectral norm on the layers of published critics: what a training step pays for its normalised weights.

Contenders read `.weight` of real modules, as the layers' own forwards do, so that Python's share counts; there are no
convolutions. Modes: "forward" gives every normalised weight, "forward+backward" also the gradient of every raw weight:
a node of the graph stands for the network, and hands over the gradients that its layers would compute.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hook_spectral_norm

import fastgan.functional
from fastgan.bench import small
from fastgan.bench.cases import CRITICS, Case, Layer
from fastgan.bench.workload import Contender, Op, Workload, relative_error, within
from fastgan.nn.utils import group_spectral_norm
from fastgan.reference import spectral_norm as reference

DTYPE = torch.float32
EPS = 1e-12
BASELINE = "torch parametrization"
MODES = ("forward", "forward+backward")


class Critic(nn.Module):
    """A critic without its convolutions: its forward reads every layer's weight once."""

    def __init__(self, weights: Iterable[tuple[Layer, Tensor]]):
        super().__init__()
        self.layers = nn.ModuleList(_module(layer, weight) for layer, weight in weights)

    def forward(self) -> list[Tensor]:
        """Every layer's normalised weight."""
        return [layer.weight for layer in self.layers]


def _module(layer: Layer, weight: Tensor) -> nn.Module:
    if layer.kind == "conv2d":
        c_out, c_in, kernel, _ = layer.shape
        module = nn.Conv2d(c_in, c_out, kernel, bias=False, device="meta")
    elif layer.kind == "linear":
        module = nn.Linear(layer.shape[1], layer.shape[0], bias=False, device="meta")
    else:
        module = nn.Embedding(*layer.shape, device="meta")
    module.weight = nn.Parameter(weight.clone())
    return module


class _Network(torch.autograd.Function):
    """Uses every normalised weight, and in the backward hands over gradients that exist already.

    `torch.autograd.backward(weights, grads)` would compare the shapes of every pair in Python, which in a small critic
    takes long, and which no training step does.
    """

    @staticmethod
    def forward(ctx: Any, grads: list[Tensor], *weights: Tensor) -> Tensor:
        ctx.grads = grads
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.grads


@dataclass(frozen=True)
class State:
    """What all contenders start from: raw weights, u [m] and v [n] of every layer, and the gradients that arrive."""

    case: Case
    weights: list[Tensor]
    us: list[Tensor]
    vs: list[Tensor]
    grads: list[Tensor]

    def critic(self) -> Critic:
        """A new critic with these weights, not yet normalised."""
        return Critic(zip(self.case.layers, self.weights, strict=True))


def _state(case: Case, device: torch.device) -> State:
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=DTYPE, device=device, generator=generator)

    weights = [random(*layer.shape) / prod(layer.shape[1:]) ** 0.5 for layer in case.layers]
    grads = [random(*layer.shape) for layer in case.layers]
    us, vs = ([nn.functional.normalize(random(layer.matrix[i]), dim=0) for layer in case.layers] for i in (0, 1))
    return State(case, weights, us, vs, grads)


@dataclass
class Normalizer:
    """A contender's moving parts: what it normalises, the u and v that it keeps, and the call that gives all W_hat."""

    parameters: list[Tensor]
    us: list[Tensor]
    vs: list[Tensor]
    normalize: Callable[[], list[Tensor]]
    u_first: bool = field(default=True)

    def contender(self, state: State, chosen: str | None = None) -> Contender:
        """This as a contender; `chosen` is the fastgan backend that computes, None for plain torch."""

        def forward_backward() -> list[Tensor]:
            weights = self.normalize()
            _Network.apply(state.grads, *weights).backward()
            return weights

        def error(run: Callable[[], list[Tensor]]) -> float:
            for kept, initial in ((self.us, state.us), (self.vs, state.vs)):
                torch._foreach_copy_(kept, initial)
            return self._error(state, run())

        return Contender(
            runs={"forward": self.normalize, "forward+backward": forward_backward},
            error=error,
            before=self._clear_gradients,
            context=within(chosen),
            backend=chosen,
        )

    def _clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _error(self, state: State, weights: list[Tensor]) -> float:
        """The largest error of W_hat, and of the gradients if there are any, against the reference in float64."""
        errors = []
        for i, (m, n) in enumerate(layer.matrix for layer in state.case.layers):
            weight, grad = (t[i].double().reshape(m, n) for t in (state.weights, state.grads))
            u, v = state.us[i].double(), state.vs[i].double()
            expected, us, vs, sigmas = reference.forward([weight], [u], [v], 1, EPS, True, self.u_first, torch.float64)
            errors.append(relative_error(weights[i].detach().reshape(m, n), expected[0]))
            if self.parameters[i].grad is not None:
                dweight = reference.backward([grad], None, [weight], us, vs, sigmas)[0]
                errors.append(relative_error(self.parameters[i].grad.reshape(m, n), dweight))
        return max(errors)


def _parametrized(state: State) -> Critic:
    critic = state.critic()
    for layer in critic.layers:
        parametrizations.spectral_norm(layer, eps=EPS)
    return critic


def _parametrization(state: State, transform: Callable[[Critic], Callable[[], list[Tensor]]]) -> Normalizer:
    critic = _parametrized(state)
    norms = [layer.parametrizations.weight for layer in critic.layers]
    parameters, us, vs = [p.original for p in norms], [p[0]._u for p in norms], [p[0]._v for p in norms]
    return Normalizer(parameters, us, vs, transform(critic))


def _hook(state: State) -> Normalizer:
    critic = state.critic()
    for layer in critic.layers:
        hook_spectral_norm(layer, eps=EPS)
    hooks = [next(iter(layer._forward_pre_hooks.values())) for layer in critic.layers]

    def normalize() -> list[Tensor]:
        for layer, hook in zip(critic.layers, hooks, strict=True):
            hook(layer, None)
        return [layer.weight for layer in critic.layers]

    layers = critic.layers
    parameters, us, vs = [x.weight_orig for x in layers], [x.weight_u for x in layers], [x.weight_v for x in layers]
    return Normalizer(parameters, us, vs, normalize, u_first=False)


def _functional(state: State) -> Normalizer:
    weights = [weight.clone().requires_grad_() for weight in state.weights]
    us, vs = ([t.clone() for t in tensors] for tensors in (state.us, state.vs))

    def normalize() -> list[Tensor]:
        result = fastgan.functional.spectral_norm(weights, us, vs, eps=EPS)
        # The commit of u and v that a module makes to its buffers.
        torch._foreach_copy_([*us, *vs], [*result.us, *result.vs])
        return result.weights

    return Normalizer(weights, us, vs, normalize)


def _grouped(state: State) -> Normalizer:
    def group(critic: Critic) -> Critic:
        group_spectral_norm(critic)
        return critic

    return _parametrization(state, group)


def workload(name: str, device: torch.device, backend_names: Sequence[str], compiled: bool) -> Workload:
    """All contenders on one critic's layers."""
    case = next(case for case in CRITICS if case.name == name)
    state = _state(case, device)
    contenders = {
        BASELINE: lambda: _parametrization(state, lambda critic: critic).contender(state),
        "torch hook": lambda: _hook(state).contender(state),
    }
    skipped = {}
    if compiled:
        contenders["torch.compile"] = lambda: _parametrization(state, torch.compile).contender(state)
    else:
        skipped["torch.compile"] = "not asked for (--compile)"
    for chosen in backend_names:
        contenders[f"fastgan functional ({chosen})"] = lambda b=chosen: _functional(state).contender(state, b)
        contenders[f"fastgan grouped ({chosen})"] = lambda b=chosen: _grouped(state).contender(state, b)
    weight_bytes = case.weights * DTYPE.itemsize
    rounding = max(layer.matrix[1] for layer in case.layers) ** 0.5 * torch.finfo(DTYPE).eps
    return Workload(
        baseline=BASELINE,
        contenders=contenders,
        skipped=skipped,
        modes=MODES,
        # Forward reads W twice to iterate and once to divide, and writes W_hat; backward reads dW_hat twice, W once,
        # and writes dW. A kernel that reads W once for both halves of an iteration moves less.
        moved_bytes={"forward": 4 * weight_bytes, "forward+backward": 8 * weight_bytes},
        # A sum of n products, rounded at random.
        baseline_bound=rounding,
        rounding=rounding,
    )


def _small_calls() -> None:
    shapes = ((1, 1), (3, 130), (257, 5), (64, 24, 3, 3))
    for dtype, order, training, offset in product(small.DTYPES, ("u_first", "v_first"), (True, False), (0, 1)):
        weights = [small.values(shape, dtype, offset).requires_grad_() for shape in shapes]
        us = [small.values((w.shape[0],), dtype, offset) for w in weights]
        vs = [small.values((w[0].numel(),), dtype, offset) for w in weights]
        grads = [small.values(shape, dtype, offset) for shape in shapes]
        result = fastgan.functional.spectral_norm(weights, us, vs, n_power_iterations=2, order=order, training=training)
        torch.autograd.grad(result.weights, weights, grads)


OPS = (
    Op(
        name="spectral_norm",
        cases={c.name: f"{len(c.layers)} layers, {c.weights / 1e6:.2f} M weights. {c.source}" for c in CRITICS},
        quick=("sngan-cifar", "sngan-128"),
        workload=workload,
        gpu=("sngan-cifar", "biggan-128"),
        kernels={"spectral_norm": _small_calls},
    ),
)
