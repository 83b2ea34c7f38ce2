"""How rules are written down: a function replays an operation, another may say what is recorded for it."""

from collections.abc import Callable
from typing import Any

from fastgan.intercept import Call, tensors_in
from fastgan.penalty.tape import RefusedError, Rule, activations_in

Run = Callable[[], Any]
Record = Callable[[Call, Call, Run], tuple[Any, Any]]


def rule(rules: dict[str, Rule], names: str, record: Record | None = None) -> Callable:
    """Enter a replay into `rules` under these names."""

    def enter(replay: Callable) -> Callable:
        rules.update(dict.fromkeys(names.split(), Rule(replay) if record is None else Rule(replay, record)))
        return replay

    return enter


def one_activation(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
    """Record an operation that is linear in any of its tensors, but not in two at once."""
    check_one_activation(call)
    return run(), None


def activations_as(*names: str) -> Record:
    """Record an operation that is linear in these arguments together."""

    def record(call: Call, actual: Call, run: Run) -> tuple[Any, Any]:
        check_activations(call, *names)
        return run(), None

    return record


def check_one_activation(call: Call) -> None:
    """Refuse a call that takes two activations."""
    if len(activations_in((call.args, call.kwargs))) > 1:
        raise RefusedError(f"{call.name} takes two activations")


def check_activations(call: Call, *names: str) -> None:
    """Refuse a call that takes an activation as another argument than these."""
    for name, value in call.named().items():
        if name not in names and activations_in(value):
            raise RefusedError(f"{call.name} takes an activation as its {name}")


def no_live_constants(call: Call) -> None:
    """Refuse a call that takes a tensor that requires grad and is no activation."""
    if any(tensor.requires_grad for tensor in tensors_in((call.args, call.kwargs))):
        raise RefusedError(f"{call.name} takes a parameter")
