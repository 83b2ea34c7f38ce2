"""Spectral norm of lists of weights."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fastgan.ops import spectral_norm as _spectral_norm


class SpectralNormResult(NamedTuple):
    """What `spectral_norm` returns: lists in the order of the weights, and sigmas [L]."""

    weights: list[Tensor]
    us: list[Tensor]
    vs: list[Tensor]
    sigmas: Tensor


def spectral_norm(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    *,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    training: bool = True,
    order: Literal["u_first", "v_first"] = "u_first",
    out_dtype: torch.dtype | None = None,
) -> SpectralNormResult:
    """Divide every weight of a list by its largest singular value, all of them in one grouped call.

        u <- W v / max(|W v|, eps)      v <- W^T u / max(|W^T u|, eps)      sigma = u^T W v      W_hat = W / sigma

    Args:
        weights: L tensors [m, ...], each taken as a matrix [m, n]; float64, float32, bfloat16 or float16, one dtype and
            one device for all, any strides. The result is computed in float32 or better.
        us: L tensors [m], of the weights' dtype and device: the left singular vectors as estimated so far.
        vs: L tensors [n]: the right ones.
        n_power_iterations: how often u and v are iterated before sigma is taken.
        eps: the smallest norm that is divided by.
        training: False takes sigma from the given u and v, and returns copies of them.
        order: "u_first" iterates u, then v, as `torch.nn.utils.parametrizations.spectral_norm` does; "v_first" iterates
            v, then u, as `torch.nn.utils.spectral_norm` does.
        out_dtype: dtype of the normalised weights; None for the weights' own.

    Returns:
        `weights`, with the shapes and, where they are dense, the strides of the inputs; `us` and `vs`, new tensors
        through which no gradient flows; `sigmas` [L], float32 for half precision, else of the weights' dtype. No two of
        them share storage. A NaN or an infinity in one weight reaches only the results of that weight.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: `weights` and `sigmas` with respect to the input weights, u and v held constant as in torch; reverse
    mode to any order. Forward mode raises NotImplementedError.

    Source: T. Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018, section 2 and
    appendix A.
    """
    _spectral_norm.check_arguments(weights, us, vs, n_power_iterations, eps, order, out_dtype)
    options = _spectral_norm.Options(
        n_power_iterations, eps, training, order == "u_first", out_dtype or weights[0].dtype
    )
    return SpectralNormResult(*_spectral_norm.spectral_norm(weights, us, vs, options))
