"""Updates over the parameters and gradients of whole networks."""

import warnings
from collections.abc import Iterable, Sequence
from math import frexp
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgan import check

__all__ = ["clean_gradients", "ema_update", "warmed_up_decay"]

HALF = (torch.bfloat16, torch.float16)


@torch.no_grad()
def ema_update(
    ema: nn.Module,
    model: nn.Module,
    decay: float,
    *,
    buffers: Literal["copy", "average", "keep"] = "copy",
    stochastic_rounding: bool = False,
    generator: torch.Generator | None = None,
) -> None:
    """Move `ema`'s parameters towards `model`'s, in place: one call for all of one dtype and device.

        p_ema <- p_ema + (1 - decay) * (p - p_ema)

    The values are bit for bit those of a loop of `p_ema.lerp_(p, 1 - decay)`, and to rounding those of loops that
    write the sum out. They are computed in `ema`'s dtype: keep `ema` in float32, also for a model in bfloat16 or
    float16 (`copy.deepcopy(model).float()`). An average in half precision hardly moves, since its steps are smaller
    than half the distance between two of its values; that warns once.

    Args:
        ema: the averaged network.
        model: the trained one, of the same structure, in the same dtypes or in less exact ones; give `model.module` of
            one in DistributedDataParallel.
        decay: from 0, which copies, to 1, which changes nothing.
        buffers: what is done with `ema`'s buffers. "copy" takes over `model`'s, as StyleGAN's loop does: batch norm's
            statistics and spectral norm's u and v are state, not weights, and belong to no other weights' average.
            "average" moves those of floating-point dtype like parameters and copies the others, as loops over a
            whole state_dict do (BigGAN's). "keep" leaves them, as loops over parameters do, for an `ema` that
            gathers statistics of its own.
        stochastic_rounding: averages in half precision are computed in float32 and rounded up or down at random, such
            that they are right on average: they move as they should, with noise of about one step of their dtype.
        generator: of the random numbers for that, on `ema`'s device; None for torch's global one.

    Raises:
        ValueError: a `decay` out of range, another word for `buffers`, a `generator` without `stochastic_rounding`, or
            networks that differ in a name, a shape or a device, or whose dtype in `ema` is the less exact one.

    Not differentiable.
    """
    check.finite(decay, "decay", 0, 1)
    check.choice(buffers, "buffers", ("copy", "average", "keep"))
    if generator is not None and not stochastic_rounding:
        raise ValueError("generator is used by stochastic_rounding=True alone")
    pairs = _matched(dict(ema.named_parameters()), dict(model.named_parameters()), "parameter")
    state = _matched(dict(ema.named_buffers()), dict(model.named_buffers()), "buffer") if buffers != "keep" else []
    averaged = [pair for pair in state if buffers == "average" and pair[0].is_floating_point()]
    for group in _alike([*pairs, *averaged]):
        averages, values = _columns(group)
        half = averages[0].dtype in HALF
        if half and stochastic_rounding:
            _lerp_stochastic(averages, values, 1 - decay, generator)
            continue
        if half and 0 < decay < 1:
            warnings.warn(
                f"ema is {averages[0].dtype}, in which an average hardly moves: "
                "keep it in float32 (ema.float()), or set stochastic_rounding=True",
                stacklevel=3,  # above torch.no_grad's own frame
            )
        torch._foreach_lerp_(averages, _converted(values, averages[0].dtype), 1 - decay)
    copied = [pair for pair in state if buffers == "copy" or not pair[0].is_floating_point()]
    for group in _alike(copied):
        torch._foreach_copy_(*_columns(group))


def warmed_up_decay(decay: float, updates: int) -> float:
    """The decay of a moving average after `updates` updates, for `ema_update`: min(decay, (1 + t) / (10 + t)).

    Without it an average with decay 0.9999 holds the network's random start for tens of thousands of steps. With it the
    first updates nearly copy, and the average reaches over about the last tenth of the steps, until `decay` is met (for
    0.9999 after 89,990 updates).

    Args:
        decay: the one that is reached in the end, from 0 to 1.
        updates: how many updates the average has had, 0 before the first.
    """
    check.finite(decay, "decay", 0, 1)
    check.finite(updates, "updates", least=0)
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def clean_gradients(
    model_or_params: nn.Module | Iterable[Tensor], nan: float = 0.0, posinf: float = 1e5, neginf: float = -1e5
) -> None:
    """Replace what is not finite in the gradients of a network, in place, as StyleGAN's loops do before every step.

        grad <- nan_to_num(grad, nan, posinf, neginf)

    bit for bit; on a GPU in a constant number of calls for all gradients of one dtype, and without waiting for it.

    Args:
        model_or_params: a network, or parameters. Those without a gradient are passed over.
        nan: what a NaN becomes.
        posinf: what an infinity becomes; or the largest number of a gradient's dtype where that is smaller.
        neginf: what a negative infinity becomes; or the smallest number of a gradient's dtype.

    Raises:
        ValueError: a replacement that is not finite.
        TypeError: a sparse gradient, or what is not a parameter.

    Not differentiable.
    """
    for name, value in (("nan", nan), ("posinf", posinf), ("neginf", neginf)):
        check.finite(value, name)
    params = model_or_params.parameters() if isinstance(model_or_params, nn.Module) else model_or_params
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for i, param in enumerate(params):
        if not isinstance(param, Tensor):
            raise TypeError(f"model_or_params must be a module or parameters, got {check.describe(param)} at {i}")
        grad = param.grad
        if grad is None:
            continue
        if grad.layout is not torch.strided:
            raise TypeError(f"model_or_params must have dense gradients, got a {grad.layout} one at {i}")
        key = grad.dtype, grad.device
        if key not in groups:
            groups[key] = []
        groups[key].append(grad)
    for (dtype, device), grads in groups.items():
        limits = torch.finfo(dtype)
        values = nan, min(posinf, limits.max), max(neginf, limits.min)
        if device.type == "cpu":
            # In place, one by one: to gather them takes 2 to 12 times as long here, where a call costs little.
            for grad in grads:
                torch.nan_to_num_(grad, *values)
        else:
            together = torch.nan_to_num_(torch.cat([grad.flatten() for grad in grads]), *values)
            parts = together.split([grad.numel() for grad in grads])
            torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])


def _matched(ema: dict[str, Tensor], model: dict[str, Tensor], what: str) -> list[tuple[Tensor, Tensor]]:
    """The tensors of both by name, or a ValueError that names the first which has no partner."""
    for name in ema.keys() ^ model.keys():
        raise ValueError(f"{what} {name!r} is in {'ema' if name in ema else 'model'} only: expected equal structures")
    for name, tensor in ema.items():
        partner = model[name]
        if tensor.shape != partner.shape:
            raise ValueError(f"{what} {name!r} has shape {list(tensor.shape)} in ema, {list(partner.shape)} in model")
        if torch.promote_types(tensor.dtype, partner.dtype) != tensor.dtype or tensor.device != partner.device:
            raise ValueError(
                f"{what} {name!r} is {tensor.dtype} on {tensor.device} in ema, "
                f"{partner.dtype} on {partner.device} in model: expected one device, and in ema no less exact a dtype"
            )
    return [(tensor, model[name]) for name, tensor in ema.items()]


def _converted(values: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return values if values[0].dtype == dtype else [value.to(dtype) for value in values]


def _lerp_stochastic(
    averages: list[Tensor], values: list[Tensor], weight: float, generator: torch.Generator | None
) -> None:
    """Lerp in float32 of averages in half precision, each rounded to one of its two neighbours, unbiased."""
    dtype = averages[0].dtype
    exact = _converted(averages, torch.float32)
    torch._foreach_lerp_(exact, _converted(values, torch.float32), weight)
    flat = torch.cat([x.flatten() for x in exact])
    limits = torch.finfo(dtype)
    # |x| = m 2^e with m in [1/2, 1): the distance to x's neighbours, which below the normal range no longer shrinks.
    exponent = flat.frexp().exponent.clamp_min(frexp(limits.tiny)[1])
    step = torch.ldexp(torch.full_like(flat, limits.eps / 2), exponent)
    # Exact: `step` is a power of two. A value that the dtype has is kept, whatever the random number.
    below = (flat / step).floor()
    up = torch.rand(flat.shape, generator=generator, device=flat.device) < flat / step - below
    rounded = ((below + up) * step).clamp(limits.min, limits.max)
    rounded = torch.where(flat.isfinite(), rounded, flat).split([x.numel() for x in averages])
    torch._foreach_copy_(averages, [part.view_as(x) for part, x in zip(rounded, averages, strict=True)])


def _alike(rows: Sequence[tuple[Tensor, ...]]) -> list[list[tuple[Tensor, ...]]]:
    """The rows by dtypes and device of their tensors: torch's foreach functions are fast for lists of one kind."""
    groups: dict[tuple[Any, ...], list[tuple[Tensor, ...]]] = {}
    for row in rows:
        groups.setdefault((row[0].device, *(tensor.dtype for tensor in row)), []).append(row)
    return list(groups.values())


def _columns(rows: Sequence[tuple[Tensor, ...]]) -> list[list[Tensor]]:
    return [list(column) for column in zip(*rows, strict=True)]
