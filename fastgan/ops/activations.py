"""The activation of an op, as its caller names it."""

from typing import Any

from fastgan.reference.activations import FACTS


def check_activation(act: Any, alpha: Any) -> None:
    """Raise TypeError or ValueError for what is not the name of an activation, and None or a number."""
    if act not in FACTS:
        raise ValueError(f"act must be one of {', '.join(FACTS)}, got {act!r}")
    if alpha is not None and not isinstance(alpha, (int, float)):
        raise TypeError(f"alpha must be a number or None, got {type(alpha).__name__} {alpha!r}")


def alpha_of(act: str, alpha: float | None) -> float:
    """The slope below 0 of lrelu, or its default."""
    return FACTS[act].alpha if alpha is None else float(alpha)
