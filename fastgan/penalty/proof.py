"""The proof that a tape is what the linearized engine takes it for, once per critic and signature of the tape.

Every operation on a tape is known to be piecewise affine. That together they do not mix samples, and that every
constant is known, cannot be read off them: a transpose hides where the batch is as large as the channels are many, a
mean over the batch after a gain that is zero today. So the tape is run.
"""

import weakref
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgan.intercept import tensors_in
from fastgan.intercept.precision import FULL_FLOAT32, rounds_float32
from fastgan.penalty.linearized import Linearization
from fastgan.penalty.replay import Replay
from fastgan.penalty.rules.linear import nothing_of_a_layer
from fastgan.penalty.tape import Activation, RefusedError

# Relative to the size of what is summed; far above rounding, far below any error of principle.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.1}

_verdicts: weakref.WeakKeyDictionary[Any, dict[Hashable, str]] = weakref.WeakKeyDictionary()


def why_not_exact(critic: Callable, forward: Linearization, check: str) -> str:
    """Why the tape of this forward must not be replayed; empty if it may be, to the logits or to where its head begins.

    Args:
        critic: what was called.
        forward: the recorded forward.
        check: "first" runs the proof once per critic and signature, "always" every time, "never" not at all.
    """
    if not forward.tape.operations:
        return forward.tape.refusal
    if check == "never":
        return ""
    if check == "always":
        return FULL_FLOAT32.run(partial(_prove, forward))
    known = _verdicts.setdefault(_owner(critic), {})
    key = signature(forward)
    if key not in known:
        if not (forward.x.isfinite().all() and forward.logits.isfinite().all()):
            return "there are infinities or NaNs, among which nothing can be proved"
        if not forward.exact and _is_rounded(forward.x):
            known[_NEXT] = ""
            return WAITS
        known.pop(_NEXT, None)
        known[key] = FULL_FLOAT32.run(partial(_prove, forward))
    return known[key]


def needs_exact_forward(critic: Callable, x: Tensor, check: str) -> bool:
    """Whether a proof is expected of this forward, and torch would round its products.

    TF32, on by default for convolutions on a GPU, is off by 5e-4 in each: among that no small error can be seen. So the
    forward, the replay and double backward are computed without it where they are to be compared.
    """
    if check == "never" or not _is_rounded(x):
        return False
    known = _verdicts.get(_owner(critic), {})
    return check == "always" or _NEXT in known or _form(x) not in {key.x for key in known}


# Among verdicts: the next forward is to be proved.
_NEXT = "next"
WAITS = "its proof waits for the next step, of which the forward is computed in full float32"


def _is_rounded(x: Tensor) -> bool:
    return x.dtype == torch.float32 and rounds_float32(x.device.type)


def _owner(critic: Callable) -> Any:
    """What a verdict is kept with: a module, or a function's code, which outlives a lambda that every step makes."""
    while isinstance(critic, partial):
        critic = critic.func
    owner = getattr(critic, "__self__", critic)
    owner = owner if isinstance(owner, nn.Module) else getattr(owner, "__code__", owner)
    try:
        weakref.WeakSet([owner])
    except TypeError:  # it cannot be hashed, or not be referred to
        return type(owner)
    return owner


class Signature(NamedTuple):
    """All of it can be hashed."""

    operations: tuple
    ends: tuple
    x: Hashable
    logits: Hashable


def signature(forward: Linearization) -> Signature:
    """All that tells one tape from another, except the values of its tensors."""
    tape = forward.tape
    operations = tuple(
        (op.call.name, _form(op.call.args), _form(op.call.kwargs), op.outputs, op.autocast) for op in tape.operations
    )
    return Signature(operations, tuple(tape.ends), _form(forward.x), _form(forward.logits))


def _form(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, value.requires_grad
    if isinstance(value, Activation):
        return value
    if isinstance(value, dict):
        return tuple((key, _form(item)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return tuple(map(_form, value))
    if isinstance(value, float):
        return float  # a number like those in tensors: a factor may be another in every step
    return value if isinstance(value, Hashable) else repr(value)


def _prove(forward: Linearization) -> str:
    try:
        return (forward.complete and _mixed_samples(forward)) or _wrong(forward)
    except RefusedError as refused:
        return str(refused)


def _wrong(forward: Linearization) -> str:
    """Compare one replay, and the gradients that it gives, with double backward of f o + <v, g>."""
    f, v = _random(forward)
    if not (forward.complete and forward.one_logit):
        f = None
    g, deltas = forward.input_gradient()
    ends, pairs = forward.replay(v, f, deltas)
    with torch.enable_grad():
        (expected,) = torch.autograd.grad(forward.logits.sum(), forward.x, create_graph=True)
    if forward.complete:
        wrong = _wrong_values(forward, f, v, g, ends[0])
    else:
        wrong = _wrong_trunk(forward, v, g, expected, ends)
    return wrong or _wrong_gradients(forward, f, v, expected, pairs)


def _random(forward: Linearization) -> tuple[Tensor, Tensor]:
    """f [N] and v [N, ...], from a generator of their own."""
    generator = torch.Generator(forward.x.device).manual_seed(0)
    f = torch.randn(len(forward.x), generator=generator, device=forward.x.device, dtype=forward.x.dtype)
    return f, torch.randn(forward.x.shape, generator=generator, device=forward.x.device, dtype=forward.x.dtype)


def _mixed_samples(forward: Linearization) -> str:
    """NaN in some samples must leave the others finite at every activation: it passes a weight or a gain of zero.

    It is put back into those samples after each operation, so that a dead unit does not hide it. The indices of two
    samples differ in a binary digit: so one replay for each digit and each of its values finds any sample that gets
    into another. Layers of samples, nearly all of a replay's cost, need not run for that.
    """
    f, v = _random(forward)
    samples = torch.arange(len(v), device=v.device)
    found: list[str] = []
    for digit in range((len(v) - 1).bit_length()):
        for value in (0, 1):
            spoilt = samples >> digit & 1 == value

            def spoil(operation: Any, y: Tensor, spoilt: Tensor = spoilt) -> Tensor:
                if not found and not y[~spoilt].isfinite().all():
                    found.append(f"{operation.call.name} mixes samples ({operation.line})")
                return torch.where(_per_sample(spoilt, y), torch.nan, y)

            scale = f.masked_fill(spoilt, torch.nan)
            Replay(forward.tape, scale, watch=spoil, instead=nothing_of_a_layer).run(spoil(None, v))
    return found[0] if found else ""


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values [N] as they broadcast against [N, ...]."""
    return values.to(like.device).view(-1, *[1] * (like.ndim - 1))


def _wrong_values(forward: Linearization, f: Tensor | None, v: Tensor, g: Tensor, output: Tensor) -> str:
    """The replay of f x + v must be f_n o_n + <v_n, g_n>, summed over a sample's logits."""
    inner, constant = _sums(v * g), 0.0 if f is None else f * _sums(forward.logits.detach())
    size = _sums(forward.logits.detach().abs()).max() + _sums((v * g).abs()).max()
    error = (_sums(output) - constant - inner).abs().max()
    if not error <= _tolerance(forward) * size:
        return (
            f"the replay of the forward is off by {float(error / size):.1e}: it is not affine, or a constant is unknown"
        )
    return ""


def _wrong_trunk(forward: Linearization, v: Tensor, g: Tensor, expected: Tensor, ends: list[Tensor]) -> str:
    """Through the trunk's ends alone, g must be what it is, and the replay of v must be <v, g>."""
    products = [(b.detach() * t).double().sum() for b, t in zip(forward.head_gradients, ends, strict=True)]
    inner = (v * g).double()
    if not (g - expected.detach()).norm() <= _tolerance(forward) * expected.detach().norm():
        return "what the head takes from the trunk is not all seen"
    if not (sum(products) - inner.sum()).abs() <= _tolerance(forward) * inner.abs().sum():
        return "the replay of the trunk is off: it is not affine"
    return ""


def _sums(x: Tensor) -> Tensor:
    return x.double().unsqueeze(-1).flatten(1).sum(1)


def _wrong_gradients(
    forward: Linearization, f: Tensor | None, v: Tensor, g: Tensor, pairs: list[tuple[Tensor, Tensor]]
) -> str:
    """The gradients of f o + <v, g> must be double backward's; `g` can be differentiated again."""
    live = {
        id(tensor): tensor
        for operation in forward.tape.operations
        for tensor in tensors_in((operation.call.args, operation.call.kwargs))
        if tensor.requires_grad
    }
    if not live:
        return ""
    inputs = list(live.values())
    ours = _gradients(pairs, inputs)
    with torch.enable_grad():
        total = (v * g).sum()
        if f is not None:
            total = total + (f.view_as(forward.logits).to(forward.logits.dtype) * forward.logits).sum()
        theirs = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
    return _difference(ours, theirs, _tolerance(forward))


def _tolerance(forward: Linearization) -> float:
    return max(map(TOLERANCE.__getitem__, forward.tape.dtypes))


def _gradients(pairs: list[tuple[Tensor, Tensor]], inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    if not pairs:
        return (None,) * len(inputs)
    outputs, deltas = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, deltas, retain_graph=True, allow_unused=True)


def _difference(ours: tuple, theirs: tuple, tolerance: float) -> str:
    norms = [0.0 if t is None else float(t.double().norm()) for t in theirs]
    size = sum(norm**2 for norm in norms) ** 0.5
    for mine, expected, norm in zip(ours, theirs, norms, strict=True):
        difference = _zero_or(mine, expected)
        if not difference <= tolerance * max(norm, 1e-3 * size):
            shape = list((mine if expected is None else expected).shape)
            return f"the gradient of a tensor {shape} is off by {difference:.1e} from double backward's {norm:.1e}"
    return ""


def _zero_or(a: Tensor | None, b: Tensor | None) -> float:
    """|a - b|, where None is zero."""
    if a is None or b is None:
        return 0.0 if a is b else float((b if a is None else a).double().norm())
    return float((a.double() - b.double()).norm())
