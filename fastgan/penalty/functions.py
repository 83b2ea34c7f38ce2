"""One penalty at a time, as a scalar: for code that adds it to a loss of its own."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from fastgan.penalty.kinds import DRAGAN, R1, R2, WGANGP, MaxGradient, Penalty, ZeroCentered
from fastgan.penalty.loss import penalized_loss

Critic = Callable[..., Any]


def r1_penalty(critic: Critic, real: Tensor, gamma: float = 10.0, args: Sequence[Any] = (), **options: Any) -> Tensor:
    """gamma / 2 * mean over samples of the squared norm of the critic's gradient at `real`; see `R1`.

    Args:
        critic: a module or function of (x, *args) that returns logits [N, ...].
        real: samples [N, ...], taken as data.
        gamma: the factor.
        args: what the critic takes after the samples, labels for instance.
        options: `engine`, `check`, `every`, `step` and `generator` of `penalized_loss`.

    Returns:
        The penalty [], of which `.backward()` gives the exact gradients. The critic runs once more for it: together
        with an adversarial loss on the same samples, `penalized_loss` costs less.
    """
    return _alone(R1(gamma), critic, real, None, args, options)


def r2_penalty(critic: Critic, fake: Tensor, gamma: float = 10.0, args: Sequence[Any] = (), **options: Any) -> Tensor:
    """As `r1_penalty`, at generated samples [N, ...]; see `R2`."""
    return _alone(R2(gamma), critic, fake, fake, args, options)


def gradient_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    weight: float = 10.0,
    center: float = 1.0,
    one_sided: bool = False,
    norm: Literal["sample", "pixel"] = "sample",
    eps: Tensor | None = None,
    args: Sequence[Any] = (),
    **options: Any,
) -> Tensor:
    """weight * mean (|gradient| - center)^2 at random interpolates of real and fake samples [N, ...]; see `WGANGP`."""
    kind = WGANGP(weight, center, one_sided, norm, eps=eps)
    return _alone(kind, critic, real, fake, args, options)


def zero_centered_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    weight: float = 10.0,
    eps: Tensor | None = None,
    args: Sequence[Any] = (),
    **options: Any,
) -> Tensor:
    """weight * mean |gradient|^2 at random interpolates of real and fake samples [N, ...]; see `ZeroCentered`."""
    return _alone(ZeroCentered(weight, eps=eps), critic, real, fake, args, options)


def max_gradient_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    weight: float = 1.0,
    eps: Tensor | None = None,
    args: Sequence[Any] = (),
    **options: Any,
) -> Tensor:
    """weight * max |gradient|^2 at random interpolates of real and fake samples [N, ...]; see `MaxGradient`."""
    return _alone(MaxGradient(weight, eps=eps), critic, real, fake, args, options)


def dragan_penalty(
    critic: Critic,
    real: Tensor,
    weight: float = 10.0,
    center: float = 1.0,
    scale: float = 0.5,
    args: Sequence[Any] = (),
    **options: Any,
) -> Tensor:
    """weight * mean (|gradient| - center)^2 at noisy real samples [N, ...]; see `DRAGAN`."""
    return _alone(DRAGAN(weight, center, scale), critic, real, None, args, options)


def _alone(
    kind: Penalty, critic: Critic, real: Tensor, fake: Tensor | None, args: Sequence[Any], options: dict[str, Any]
) -> Tensor:
    return penalized_loss(critic, real, fake, None, [kind], real_args=args, fake_args=args, **options).loss
