"""Path length regularisation of a generator."""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from fastgan import check
from fastgan.intercept import run_under
from fastgan.penalty.double_backward import efficient_convolutions, vector_jacobian_products

__all__ = ["path_length_penalty"]


def path_length_penalty(
    generator: Callable[[Tensor], Tensor],
    latents: Tensor,
    mean: Tensor | float,
    *,
    decay: float = 0.01,
    weight: float = 2.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """weight * mean_n (|J_n^T y_n| - a)^2, where J_n is the Jacobian of the generator at latent n, and y_n noise.

        images = generator(latents)       y = noise / sqrt(H W)       lengths = |J^T y|
        a <- a + decay * (mean_n lengths_n - a)

    Args:
        generator: gives images [N, C, H, W], or [N, C, ...], for latents.
        latents: [N, D], or one for each of L layers, [N, L, D]; then the squared length is the mean over layers. A
            history that they have is part of what is differentiated: that of a mapping network, say.
        mean: a [], the running mean of the lengths; 0 at the start of training.
        decay: the step of the running mean.
        weight: the factor of the penalty.
        noise: the images' shape; None for N(0, 1).

    Returns:
        The penalty [], differentiable with respect to the generator's parameters, and the new running mean [], with
        which it was computed and which is a constant to autograd. Both are float32, or float64 for such latents.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: torch has no second derivative of an operation in the generator; the message names it.

    Derivatives: reverse mode, as often as the generator's own. A length of zero has the derivative zero.

    Source: T. Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, equation 4. The factor
    1 / sqrt(H W) makes lengths comparable between resolutions.
    """
    _check_arguments(latents, mean, decay, weight)
    if not latents.requires_grad:
        latents = latents.detach().requires_grad_()
    images = run_under(efficient_convolutions(), lambda: generator(latents))
    _check_images(images, latents, noise)
    noise = torch.randn_like(images) if noise is None else noise.to(images.dtype)
    gradient = None
    if images.requires_grad:
        (gradient,) = vector_jacobian_products(images, [latents], noise.detach() / prod(images.shape[2:]) ** 0.5)
    if gradient is None:
        raise ValueError("generator must give images that depend on the latents, got some without a path to them")

    exact = torch.float64 if latents.dtype == torch.float64 else torch.float32
    layers = gradient.shape[1] if gradient.ndim == 3 else 1
    lengths = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=exact) / layers**0.5
    average = lengths.detach().mean()
    mean = torch.as_tensor(mean, dtype=exact, device=average.device).detach().lerp(average, decay)
    return weight * (lengths - mean).square().mean(), mean


def _check_arguments(latents: Tensor, mean: Tensor | float, decay: float, weight: float) -> None:
    if not isinstance(latents, Tensor):
        raise TypeError(f"latents must be a tensor, got {check.describe(latents)}")
    check.dtype(latents.dtype, "latents.dtype")
    if latents.ndim not in (2, 3) or len(latents) == 0:
        raise ValueError(f"latents must be [N, D] or [N, L, D] with N >= 1, got {check.describe(latents)}")
    if not isinstance(mean, (Tensor, float, int)) or (isinstance(mean, Tensor) and mean.ndim > 0):
        raise TypeError(f"mean must be a number or a tensor [], got {check.describe(mean)}")
    check.finite(decay, "decay", 0, 1)
    check.finite(weight, "weight", least=0)


def _check_images(images: Tensor, latents: Tensor, noise: Tensor | None) -> None:
    if not isinstance(images, Tensor) or images.ndim < 2 or len(images) != len(latents):
        raise ValueError(f"generator must return images [{len(latents)}, C, ...], got {check.describe(images)}")
    if noise is not None and (not isinstance(noise, Tensor) or noise.shape != images.shape):
        raise ValueError(f"noise must have the shape of the images, {list(images.shape)}, got {check.describe(noise)}")
