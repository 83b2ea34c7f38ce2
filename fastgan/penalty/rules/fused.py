"""fastgan's own operations: as affine, or piecewise affine, as what they fuse."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.intercept import Call
from fastgan.ops.bias_act import Spec, gradient, make_spec
from fastgan.penalty.replay import Replay
from fastgan.penalty.rules.table import Run, check_activations, rule
from fastgan.penalty.tape import Operation, RefusedError, Rule
from fastgan.reference.activations import FACTS

RULES: dict[str, Rule] = {}


def _check(call: Call) -> dict[str, Any]:
    """The arguments of an operation with an activation function that is piecewise linear."""
    check_activations(call, "input")
    arguments = call.named()
    act = arguments.get("act", _DEFAULT_ACTS[call.name])
    if act in FACTS and not FACTS[act].piecewise_linear:
        raise RefusedError(f"{call.name} with {act} is not piecewise linear")
    return arguments


_DEFAULT_ACTS = {"bias_act": "linear", "scale_shift_act": "relu", "norm_act": "relu", "pixel_shuffle_act": "linear"}


def _frozen(z: Tensor, saved: Tensor | None, spec: Spec) -> Tensor:
    """z times the slopes of the forward; what was saved there is what a backward needs."""
    return gradient(z, saved, None, spec)


def _along(vector: Tensor, x: Tensor, dim: int = 1) -> Tensor:
    """[C], or [N, C] for dim 1, so that it broadcasts against x without a batch dimension, or with it."""
    return vector.view(*vector.shape, *[1] * (x.ndim - dim - 1))


# --- bias_act ---


def _record_bias_act(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    arguments = _check(call)
    out = run()
    values = (arguments.get(name) for name in ("act", "alpha", "gain", "clamp"))
    act, alpha, gain, clamp = values
    x = actual.named()["input"]
    spec = make_spec(arguments.get("dim", 1) % x.ndim, act or "linear", alpha, gain, clamp)
    z = x if spec.at_value or arguments.get("b") is None else x + _along(arguments["b"], x, spec.dim).to(x.dtype)
    saved = spec.saved(z, out)
    if saved is out and arguments.get("keep") == "input":
        saved = out.clone()  # it may be changed in place
    limits = None if clamp is None else torch.where(out.detach().abs() < clamp, 0, out.detach())
    return out, (None if saved is None else saved.detach(), limits, spec)


@rule(RULES, "bias_act", _record_bias_act)
def _bias_act(op: Operation, at: Replay) -> Tensor:
    arguments, (saved, limits, spec) = op.call.named(), op.pattern
    z, b = at.activation(arguments["input"]), arguments.get("b")
    if b is not None and at.scale is not None:
        z = z + at.constant(_along(b, z, spec.dim), z)
    y = _frozen(z, saved, spec)
    return y if limits is None or at.scale is None else y + at.constant(limits, y)


# --- scale_shift_act, and norm_act, which in evaluation is one ---


def _record_act(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    arguments = _check(call)
    spec = make_spec(1, arguments.get("act", _DEFAULT_ACTS[call.name]), arguments.get("alpha"), 1.0, None)
    if not (spec.at_value or spec.constant_slope):
        raise RefusedError(f"{call.name} has a negative alpha")
    out = run()
    return out, (spec.saved(out, out.detach()), spec)


@rule(RULES, "scale_shift_act", _record_act)
def _scale_shift_act(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    return _affine_act(op, at, arguments.get("scale"), arguments.get("shift"), *op.pattern)


def _affine_act(
    op: Operation, at: Replay, scale: Tensor | None, shift: Tensor | None, saved: Tensor | None, spec: Spec
) -> Tensor:
    z = at.activation(op.call.named()["input"])
    if scale is not None:
        z = z * _along(scale, z).to(z.dtype)
    if shift is not None and at.scale is not None:
        z = z + at.constant(_along(shift, z), z).to(z.dtype)
    return _frozen(z, saved, spec)


def _record_norm_act(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    arguments = call.named()
    if arguments.get("norm", "batch") != "batch":
        raise RefusedError(f"norm_act with {arguments['norm']} norm is not piecewise linear")
    if arguments.get("training", True) or arguments.get("running_mean") is None:
        raise RefusedError("norm_act in training mode mixes the samples of a batch")
    # The buffers may be updated before the replay.
    statistics = arguments["running_mean"].clone(), arguments["running_var"].clone()
    out, pattern = _record_act(call, actual, run)
    return out, (*statistics, *pattern)


@rule(RULES, "norm_act", _record_norm_act)
def _norm_act(op: Operation, at: Replay) -> Tensor:
    arguments, (mean, var, saved, spec) = op.call.named(), op.pattern
    weight, bias = arguments.get("weight"), arguments.get("bias")
    factor = (var + arguments.get("eps", 1e-5)).rsqrt()
    factor = factor if weight is None else weight * factor
    shift = -mean * factor if bias is None else bias - mean * factor
    return _affine_act(op, at, factor, shift, saved, spec)


# --- pixel_shuffle_act ---


@rule(RULES, "pixel_shuffle_act", _record_act)
def _pixel_shuffle_act(op: Operation, at: Replay) -> Tensor:
    arguments, (saved, spec) = op.call.named(), op.pattern
    z, bias, factor = at.activation(arguments["input"]), arguments.get("bias"), arguments.get("upscale_factor", 2)
    if bias is not None and at.scale is not None:
        z = z + at.constant(_along(bias, z), z).to(z.dtype)
    return F.pixel_shuffle(_frozen(z, None if saved is None else F.pixel_unshuffle(saved, factor), spec), factor)
