"""The training step with the grouped spectral norm against the same step with torch's own."""

from dataclasses import replace

import torch
from torch import Tensor

from fastgan.bench.runner import timer_for
from fastgan.bench.timing import Budget, Timed, interleave, ratio, spread
from fastgan.train.config import Config
from fastgan.train.data import load_images
from fastgan.train.state import TrainState

CHECKED_STEPS = 2
TOLERANCE = 1e-9  # relative, in float64: far above rounding, far below a difference in the maths
BUDGET = Budget(warmup=2, rounds=15, most=60, seconds=12.0)


def compare(config: Config) -> str:
    """Check in float64 that both steps give the same losses, then time them in float32, interleaved.

    Reseeds torch's global generator. Returns one line of result. Raises ArithmeticError when the losses differ.
    """
    images = load_images(config.data, config.channels)

    def fresh(spectral_norm: str, dtype: torch.dtype) -> TrainState:
        return TrainState(replace(config, spectral_norm=spectral_norm), images, dtype)

    def losses(spectral_norm: str) -> Tensor:
        state = fresh(spectral_norm, torch.float64)
        # Some biases' gradients are zero on paper. With its usual eps Adam makes whole steps out of their rounding.
        for optimizer in (state.opt_g, state.opt_d):
            optimizer.param_groups[0]["eps"] = 1e-3
        return torch.stack([loss for _ in range(CHECKED_STEPS) for loss in state.advance().values()])

    expected = losses("torch")
    error = ((losses("grouped") - expected).abs() / expected.abs()).max().item()
    # `not <=` rather than `>`, so that nan is refused too
    if not error <= TOLERANCE:
        raise ArithmeticError(f"losses with grouped and torch's spectral norm differ by {error:.1e} in float64")

    states = {name: fresh(name, torch.float32) for name in ("torch", "grouped")}
    device = states["torch"].device
    seconds = interleave({name: Timed(s.advance) for name, s in states.items()}, timer_for(device, "eager"), BUDGET)
    plain, grouped = (1e3 * spread(seconds[name]).median for name in ("torch", "grouped"))
    return (
        f"training step on {device}: PyTorch's spectral norm {plain:.1f} ms, fastgan's {grouped:.1f} ms, "
        f"speed-up {ratio(seconds['torch'], seconds['grouped'])} "
        f"({len(seconds['torch'])} interleaved runs, losses equal to {error:.0e} in float64)"
    )
