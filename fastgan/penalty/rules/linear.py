"""Operations that are affine in their activations everywhere."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.intercept import Call
from fastgan.intercept.convolutions import EFFICIENT
from fastgan.penalty.replay import Replay
from fastgan.penalty.rules.table import Run, activations_as, check_activations, one_activation, rule
from fastgan.penalty.tape import Activation, Operation, RefusedError, Rule, activations_in

RULES: dict[str, Rule] = {}

# --- linear in one activation: the same call again ---

REPEATED = """
reshape view flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t T mT ravel squeeze unsqueeze
narrow select chunk split tensor_split unsafe_chunk unsafe_split split_with_sizes unbind iter
expand broadcast_to repeat repeat_interleave tile roll flip fliplr flipud rot90 diagonal tril triu
contiguous clone to type float double half bfloat16 cuda cpu
pixel_shuffle pixel_unshuffle channel_shuffle unfold fold interpolate upsample
avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d sum mean cumsum diff
neg positive mul matmul einsum mv tensordot inner upfirdn2d
"""


def _record_choice(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    arguments = actual.named()
    if call.name == "getitem":
        index = arguments["index"]
        first = index[0] if isinstance(index, tuple) and index else index
        among_samples = not (first is None or first is ... or isinstance(first, int | slice | tuple))
    else:
        among_samples = arguments.get("dim") in (None, 0, -arguments["input"].ndim)
    if among_samples:
        # The proof may see values by which each sample picks itself.
        raise RefusedError(f"{call.name} picks among samples by a tensor")
    return one_activation(call, actual, run)


@rule(RULES, "getitem index_select gather take_along_dim", _record_choice)
@rule(RULES, "view_as reshape_as expand_as type_as")
@rule(RULES, REPEATED, one_activation)
def _repeat(op: Operation, at: Replay) -> Any:
    return _out_of_place(op.call.function)(*at.arguments(op.call.args), **at.arguments(op.call.kwargs))


def _out_of_place(function: Callable) -> Callable:
    name = getattr(function, "__name__", "")
    if name in ("__imul__", "__rmul__"):
        return torch.mul
    return getattr(Tensor, name[:-1]) if name.endswith("_") and not name.endswith("__") else function


def _record_div(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    check_activations(call, "input")
    if call.named().get("rounding_mode") is not None:
        raise RefusedError("div rounds")
    return run(), None


@rule(RULES, "div", _record_div)
def _div(op: Operation, at: Replay) -> Tensor:
    arguments = at.arguments(op.call.named())
    return torch.div(arguments["input"], arguments["other"])


# --- layers: linear in the input; weight and bias may require grad ---


class LayerOutput(NamedTuple):
    """What a layer keeps of the forward."""

    shape: torch.Size
    dtype: torch.dtype


def _record_layer(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    check_activations(call, "input")
    out = run()
    return out, LayerOutput(out.shape, out.dtype)


@rule(
    RULES,
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d upsample_conv1d upsample_conv2d "
    "upsample_conv3d conv_downsample1d conv_downsample2d conv_downsample3d",
    _record_layer,
)
def _layer(op: Operation, at: Replay) -> Tensor:
    arguments = at.arguments(op.call.named())
    bias = arguments.pop("bias", None)
    function = EFFICIENT.get(op.call.function, op.call.function)
    out = function(arguments.pop("input"), arguments.pop("weight"), None, **arguments)
    if bias is None or at.scale is None:
        return out
    space = _space(op)
    # In place: no layer needs its output for its backward.
    return out.add_(at.constant(bias.view(-1, *[1] * space), out))


def _space(op: Operation) -> int:
    """The dimensions after that of the channels, in which a layer convolves."""
    return 0 if op.call.name == "linear" else int(op.call.name[-2])


def nothing_of_a_layer(op: Operation, at: Replay) -> Tensor | None:
    """Zeros of a layer's output, where it is a layer of samples: by definition it takes each by itself."""
    if not isinstance(op.pattern, LayerOutput):
        return None
    x = at.activation(op.call.named()["input"])
    batched = x.ndim >= 2 if op.call.name == "linear" else x.ndim == _space(op) + 2
    return x.new_zeros(op.pattern.shape, dtype=op.pattern.dtype) if batched else None


def _record_batch_norm(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    if actual.function is not F.batch_norm:
        raise RefusedError("torch.batch_norm is called directly")
    check_activations(call, "input")
    arguments = call.named()
    if arguments.get("training") or arguments["running_mean"] is None:
        raise RefusedError("batch_norm in training mode mixes the samples of a batch")
    # The buffers may be updated before the replay.
    return run(), (arguments["running_mean"].clone(), arguments["running_var"].clone())


@rule(RULES, "batch_norm", _record_batch_norm)
def _batch_norm(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    x, weight, bias = at.activation(arguments["input"]), arguments.get("weight"), arguments.get("bias")
    mean, var = op.pattern
    factor = (var + arguments.get("eps", 1e-5)).rsqrt()
    factor = factor if weight is None else weight * factor
    shift = -mean * factor if bias is None else bias - mean * factor
    shape = (-1, *[1] * (x.ndim - 2))
    out = x * factor.view(shape)
    return out if at.scale is None else out + at.constant(shift.view(shape), out)


# --- sums: linear in activations and constants together ---


def _shaped_like(values: Any, at: Replay) -> Tensor:
    """The activation with the most dimensions among these arguments."""
    return max((at.activation(found) for found in activations_in(values)), key=lambda tensor: tensor.ndim)


def _add(first: Tensor | float | None, second: Tensor | float | None, factor: float | Tensor = 1) -> Any:
    """first + factor * second, where None is zero."""
    if second is None:
        return first
    second = second if isinstance(factor, int | float) and factor == 1 else second * factor
    return second if first is None else first + second


@rule(RULES, "add sub", activations_as("input", "other"))
def _sum(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    like = _shaped_like(arguments, at)
    sign = -1 if op.call.name == "sub" else 1
    terms = [at.term(arguments[name], like) for name in ("input", "other")]
    return _add(*terms, sign * arguments.get("alpha", 1))


@rule(RULES, "addmm baddbmm", activations_as("input", "mat1", "mat2"))
def _addmm(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    if {type(arguments["mat1"]), type(arguments["mat2"])} == {Activation}:
        raise RefusedError(f"{op.call.name} takes two activations")
    product = torch.matmul(at.arguments(arguments["mat1"]), at.arguments(arguments["mat2"]))
    scaled = product * arguments["alpha"] if "alpha" in arguments else product
    return _add(scaled, at.term(arguments["input"], product), arguments.get("beta", 1))


@rule(RULES, "lerp", activations_as("input", "end"))
def _lerp(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    like, weight = _shaped_like(arguments, at), arguments["weight"]
    start = at.term(arguments["input"], like)
    return _add(None if start is None else start * (1 - weight), at.term(arguments["end"], like), weight)


def _parts(parts: Any, at: Replay) -> list[Tensor]:
    """The activations and the scaled constants, each in its own shape."""
    like = _shaped_like(parts, at)
    return [at.activation(part) if isinstance(part, Activation) else at.constant(part, like) for part in parts]


@rule(RULES, "cat stack", activations_as("tensors"))
def _joined(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    join = {"cat": torch.cat, "stack": torch.stack}[op.call.name]
    return join(_parts(arguments["tensors"], at), arguments.get("dim", 0))


@rule(RULES, "where", activations_as("input", "other"))
def _where(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    return torch.where(arguments["condition"], *_parts((arguments["input"], arguments["other"]), at))


@rule(RULES, "setitem")
def _setitem(op: Operation, at: Replay) -> Tensor:
    target, index, value = op.call.args
    target = at.activation(target).clone()
    target[index] = at.activation(value) if isinstance(value, Activation) else at.constant(value, target[index])
    return target


@rule(RULES, "masked_fill", activations_as("input"))
def _masked_fill(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    x = at.activation(arguments["input"])
    return torch.where(arguments["mask"], at.constant(arguments["value"], x), x)


@rule(RULES, "pad", activations_as("input"))
def _pad(op: Operation, at: Replay) -> Tensor:
    arguments = op.call.named()
    x, pad, mode, value = (*map(arguments.get, ("input", "pad", "mode", "value")),)
    x, mode = at.activation(x), mode or "constant"
    out = F.pad(x, pad, mode)
    if mode != "constant" or not value or at.scale is None:
        return out
    return out + at.constant(F.pad(torch.zeros_like(x[:1]), pad, value=value), out)
