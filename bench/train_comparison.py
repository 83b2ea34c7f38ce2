"""The training step with fastgan's layers against the same step in plain PyTorch."""

from dataclasses import replace

import torch
from torch import Tensor

from fastgan import memory
from fastgan.bench.runner import timer_for
from fastgan.bench.timing import Budget, Timed, interleave, ratio, spread
from fastgan.train.recipe import Recipe
from fastgan.train.state import TrainState

SIDES = {"PyTorch": {"plain": True}, "fastgan": {"plain": False}}
CHECKED_STEPS = 2
TOLERANCE = 1e-9  # relative, in float64: far above rounding, far below a difference in the maths
BUDGET = Budget(warmup=2, rounds=15, most=60, seconds=12.0)


def compare(recipe: Recipe) -> str:
    """Check in float64 that both steps give the same losses, then time them in float32, interleaved.

    Reseeds torch's global generator. Returns one line of result. Raises ArithmeticError when the losses differ.
    """
    data = recipe.load()

    def fresh(side: str, dtype: torch.dtype) -> TrainState:
        return TrainState(type(recipe)(replace(recipe.settings, **SIDES[side])), data, dtype)

    def losses(side: str) -> Tensor:
        state = fresh(side, torch.float64)
        # Some biases' gradients are zero on paper. With its usual eps Adam makes whole steps out of their rounding.
        for optimizer in (state.opt_g, state.opt_d):
            optimizer.param_groups[0]["eps"] = 1e-3
        return torch.stack([loss for _ in range(CHECKED_STEPS) for loss in state.advance().values()])

    expected = losses("PyTorch")
    # Of the largest: a hinge loss may be 0.
    error = ((losses("fastgan") - expected).abs().max() / expected.abs().max()).item()
    # `not <=` rather than `>`, so that nan is refused too
    if not error <= TOLERANCE:
        raise ArithmeticError(f"losses of fastgan and of plain PyTorch differ by {error:.1e} in float64")

    memory.empty_cache()  # as in a run of its own: a step after the float64 check was measured to be slower without
    states = {side: fresh(side, torch.float32) for side in SIDES}
    device = states["PyTorch"].device
    seconds = interleave({side: Timed(s.advance) for side, s in states.items()}, timer_for(device, "eager"), BUDGET)
    plain, ours = (1e3 * spread(seconds[side]).median for side in SIDES)
    return (
        f"training step on {device}: PyTorch {plain:.1f} ms, fastgan {ours:.1f} ms, "
        f"speed-up {ratio(seconds['PyTorch'], seconds['fastgan'])} "
        f"({len(seconds['PyTorch'])} interleaved runs, losses equal to {error:.0e} in float64)"
    )
