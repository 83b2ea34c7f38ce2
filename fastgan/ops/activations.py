"""The activation of an op, as its caller names it."""

from typing import Any

from fastgan import check
from fastgan.reference.activations import FACTS


def check_activation(act: Any, alpha: Any) -> None:
    """Raise TypeError or ValueError for what is not the name of an activation, and None or a finite number."""
    check.choice(act, "act", FACTS)
    if alpha is not None:
        check.finite(alpha, "alpha")


def alpha_of(act: str, alpha: float | None) -> float:
    """The slope below 0 of lrelu, or its default."""
    return FACTS[act].alpha if alpha is None else float(alpha)
