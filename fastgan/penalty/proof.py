"""The proof that a tape is what the linearized engine takes it for, once per critic and signature of the tape.

Every operation on a tape is known to be piecewise affine. That together they do not mix samples, and that every
constant is known, cannot be read off them: a transpose hides where the batch is as large as the channels are many, a
mean over the batch behind a gain that is zero today. So the tape is run.
"""

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.intercept import tensors_in
from fastgan.penalty.linearized import Linearization
from fastgan.penalty.replay import Replay
from fastgan.penalty.tape import Activation, RefusedError

# Relative to the size of what is summed; far above rounding, far below any error of principle.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.1}

_verdicts: weakref.WeakKeyDictionary[Any, dict[Hashable, str]] = weakref.WeakKeyDictionary()


def objection(critic: Callable, forward: Linearization, check: str) -> str:
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
        return _prove(forward)
    known = _verdicts.setdefault(_owner(critic), {})
    key = signature(forward)
    if key not in known:
        if not (forward.x.isfinite().all() and forward.logits.isfinite().all()):
            return "there are infinities or NaNs, among which nothing can be proved"
        known[key] = _prove(forward)
    return known[key]


def _owner(critic: Callable) -> Any:
    """What a verdict is kept with: a module, or a function's code, which outlives a lambda made anew in every step."""
    while isinstance(critic, functools.partial):
        critic = critic.func
    owner = getattr(critic, "__self__", critic)
    owner = owner if isinstance(owner, nn.Module) else getattr(owner, "__code__", owner)
    try:
        weakref.WeakSet([owner])
    except TypeError:  # it cannot be hashed, or not be referred to
        return type(owner)
    return owner


def signature(forward: Linearization) -> Hashable:
    """All that tells one tape from another but the numbers in its tensors."""
    tape = forward.tape
    operations = tuple(
        (op.call.name, _form(op.call.args), _form(op.call.kwargs), op.outputs, op.autocast) for op in tape.operations
    )
    return operations, tuple(tape.ends), _form(forward.x), _form(forward.logits)


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
        wrong = (_mixed_samples(forward) or _wrong_values(forward)) if forward.complete else _wrong_trunk(forward)
        return wrong or _wrong_gradients(forward)
    except RefusedError as refused:
        return str(refused)


def _random(forward: Linearization) -> tuple[Tensor, Tensor]:
    """f [N] and v [N, ...], without the random numbers of anyone else."""
    generator = torch.Generator(forward.x.device).manual_seed(0)
    f = torch.randn(len(forward.x), generator=generator, device=forward.x.device, dtype=forward.x.dtype)
    return f, torch.randn(forward.x.shape, generator=generator, device=forward.x.device, dtype=forward.x.dtype)


def _mixed_samples(forward: Linearization) -> str:
    """NaN in some samples must leave the others finite at every activation: it passes a weight or a gain of zero.

    It is put back into those samples after each operation, lest a dead unit hide it. The binary numbers of two samples
    differ in a digit: so one replay for each digit and each of its values finds any sample that gets into another.
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

            Replay(forward.tape, f.masked_fill(spoilt, torch.nan), watch=spoil).run(spoil(None, v))
    return found[0] if found else ""


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values [N] as they broadcast against [N, ...]."""
    return values.to(like.device).view(-1, *[1] * (like.ndim - 1))


def _wrong_values(forward: Linearization) -> str:
    """The replay of f x + v must be f_n o_n + <v_n, g_n>, summed over a sample's logits."""
    f, v = _random(forward)
    x = forward.x.detach()
    (output,), _ = Replay(forward.tape, f).run(_per_sample(f, x) * x + v)
    g, _ = forward.input_gradient()
    terms = f * _sums(forward.logits.detach()), _sums(v * g)
    size = _sums(forward.logits.detach().abs()).max() + _sums((v * g).abs()).max()
    error = (_sums(output) - terms[0] - terms[1]).abs().max()
    if not error <= _tolerance(forward) * size:
        return (
            f"the replay of the forward is off by {float(error / size):.1e}: it is not affine, or a constant is unknown"
        )
    return ""


def _wrong_trunk(forward: Linearization) -> str:
    """Through the trunk's ends alone, g must be what it is, and the replay of v must be <v, g>."""
    _, v = _random(forward)
    g, _ = forward.input_gradient()
    (expected,) = torch.autograd.grad(forward.logits.sum(), forward.x, retain_graph=True)
    ends, _ = Replay(forward.tape, None).run(v)
    products = [(b.detach() * t).double().sum() for b, t in zip(forward.head_gradients, ends, strict=True)]
    inner = (v * g).double()
    if not (g - expected).norm() <= _tolerance(forward) * expected.norm():
        return "what the head takes from the trunk is not all seen"
    if not (sum(products) - inner.sum()).abs() <= _tolerance(forward) * inner.abs().sum():
        return "the replay of the trunk is off: it is not affine"
    return ""


def _sums(x: Tensor) -> Tensor:
    return x.double().unsqueeze(-1).flatten(1).sum(1)


def _wrong_gradients(forward: Linearization) -> str:
    """The gradients of f o + <v, g> must be double backward's."""
    live = {
        id(tensor): tensor
        for operation in forward.tape.operations
        for tensor in tensors_in((operation.call.args, operation.call.kwargs))
        if tensor.requires_grad
    }
    if not live:
        return ""
    inputs = list(live.values())
    f, v = _random(forward)
    if not (forward.complete and forward.one_logit):
        f = None
    _, deltas = forward.input_gradient()
    pairs = forward.gradients(v, f, deltas)
    ours = _gradients(pairs, inputs)
    with torch.enable_grad():
        (g,) = torch.autograd.grad(forward.logits.sum(), forward.x, create_graph=True)
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
