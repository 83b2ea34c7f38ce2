"""What is known after a call of a chain.

Links are pure: they look at arguments and never compute. What is not a link is a sentence that says why not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from fastgan.check import MOST_NUMBERS
from fastgan.fusion.chains.arguments import UnfitError
from fastgan.intercept import Call


@dataclass(frozen=True, eq=False)
class Link:
    """What is known after a call.

    Args:
        inputs: the tensors that the result is made of.
        shape: of the result.
        dtype: of the result.
    """

    op: ClassVar[str]
    complete: ClassVar[bool] = False  # whether `run` computes what the calls so far would
    changes: ClassVar[tuple[Tensor, ...]] = ()  # what the calls so far change in place
    kept: ClassVar[tuple[Tensor, ...]] = ()  # what `run` keeps for a backward, and the calls so far would not
    inputs: tuple[Tensor, ...]
    shape: torch.Size
    dtype: torch.dtype

    def follow(self, call: Call) -> "Link | str":
        """The link after `call`, whose first activation is this link's result; or why it cannot be in the chain."""
        return f"its result goes to {call.name}"

    def run(self) -> Tensor:
        """The result of the chain so far, by our function."""
        raise NotImplementedError

    def again(self, call: Callable[[], Tensor]) -> Tensor:
        """What the user's call returned, after the chain has run: nothing is changed in place a second time."""
        return call()

    def loss(self) -> str:
        """Why running it as one would not pay; empty if it does."""
        return ""


def follow(link: Link, call: Call, result: Tensor) -> Link | str:
    """The link after a call that takes the result of another link; or why it cannot be in the chain."""
    if (
        call.name not in ("add", "mul")
        and not (call.args and call.args[0] is result)
        and (call.kwargs.get("input") is not result)
    ):
        return f"its result is not the first argument of {call.name}"
    return fitting(link.follow, call)


def fitting(rule: Callable[[Call], Link | str], call: Call) -> Link | str:
    """What a rule makes of a call; or why it is left to torch."""
    try:
        link = rule(call)
    except UnfitError as error:
        return str(error)
    too_large = not isinstance(link, str) and prod(link.shape) > MOST_NUMBERS
    return "its result would be too large" if too_large else link
