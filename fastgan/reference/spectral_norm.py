"""Spectral norm in plain torch: the definition that every backend is compared with.

u <- W v / max(|W v|, eps)        v <- W^T u / max(|W^T u|, eps)        sigma = u^T W v        W_hat = W / sigma
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def forward(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    n_power_iterations: int,
    eps: float,
    training: bool,
    u_first: bool,
    out_dtype: torch.dtype,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """Normalise weights [m, ...], taken as matrices [m, n], by their largest singular value.

    It is estimated with u [m] and v [n]. Returns the normalised weights, the new u and v, and sigmas [L]. u and v are
    constants to autograd, as in torch.
    """
    exact = _accumulation_dtype(weights[0].dtype)
    out = ([], [], [], [])
    with torch.autocast(weights[0].device.type, enabled=False):
        for weight, u, v in zip(weights, us, vs, strict=True):
            w = weight.to(exact).flatten(1)
            u, v = _power_iteration(
                w.detach(), u.to(exact), v.to(exact), n_power_iterations if training else 0, eps, u_first
            )
            sigma = torch.dot(u, torch.mv(w, v))
            for results, result in zip(out, ((weight.to(exact) / sigma).to(out_dtype), u, v, sigma), strict=True):
                results.append(result)
    weights_out, us_out, vs_out, sigmas = out
    # Two casts of the same dtype would alias the inputs: hence the clones.
    return (
        weights_out,
        [u.to(weights[0].dtype, copy=True) for u in us_out],
        [v.to(weights[0].dtype, copy=True) for v in vs_out],
        torch.stack(sigmas),
    )


def backward(
    grads: list[Tensor],
    grad_sigmas: Tensor | None,
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    sigmas: Tensor,
) -> list[Tensor]:
    """dW = (dW_hat - <dW_hat, W>/sigma * u v^T) / sigma + dsigma * u v^T, with u and v held constant.

    Differentiable with respect to `grads`, `grad_sigmas`, `weights` and `sigmas`, to any order.
    """
    exact = sigmas.dtype
    out = []
    for i, (grad, weight, u, v) in enumerate(zip(grads, weights, us, vs, strict=True)):
        grad, sigma = grad.to(exact), sigmas[i]
        rank_one = torch.outer(u.to(exact), v.to(exact)).view_as(weight)
        coefficient = (grad * weight.to(exact)).sum() / sigma
        dw = (grad - coefficient * rank_one) / sigma
        if grad_sigmas is not None:
            dw = dw + grad_sigmas[i] * rank_one
        out.append(dw.to(weight.dtype))
    return out


def _power_iteration(w: Tensor, u: Tensor, v: Tensor, iterations: int, eps: float, u_first: bool):
    for _ in range(iterations):
        if u_first:
            u = normalize(torch.mv(w, v), dim=0, eps=eps)
            v = normalize(torch.mv(w.t(), u), dim=0, eps=eps)
        else:
            v = normalize(torch.mv(w.t(), u), dim=0, eps=eps)
            u = normalize(torch.mv(w, v), dim=0, eps=eps)
    return u, v


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
