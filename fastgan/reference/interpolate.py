"""Interpolation in plain torch: y_n = eps_n real_n + (1 - eps_n) fake_n. The definition of every backend."""

from torch import Tensor


def forward(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """Interpolate between real and fake [N, ...] by eps [N] in eps's dtype, float32 or better."""
    eps = eps.view(-1, *[1] * (real.ndim - 1))
    return (eps * real.to(eps.dtype) + (1 - eps) * fake.to(eps.dtype)).to(real.dtype)


def backward(dy: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of real and fake: eps_n dy_n and (1 - eps_n) dy_n."""
    eps, exact = eps.view(-1, *[1] * (dy.ndim - 1)), dy.to(eps.dtype)
    return (eps * exact).to(dy.dtype), ((1 - eps) * exact).to(dy.dtype)
