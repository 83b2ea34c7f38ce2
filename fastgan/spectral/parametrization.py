"""Spectral norm of one parameter: torch's parametrization, computed by fastgan's op."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from fastgan import check
from fastgan.ops import spectral_norm as _op
from fastgan.ops.spectral_norm import Options


class SpectralNorm(parametrizations._SpectralNorm):
    """torch's parametrization, with the same buffers, start and iteration; only `forward` is computed by fastgan.

        u <- W v / |W v|        v <- W^T u / |W^T u|        sigma = u^T W v        W_hat = W / sigma

    Buffers: `_u` [m] and `_v` [n], where `dim` of the weight gives the m rows and the other dimensions the n columns.
    In training mode every call iterates u and v in place, `n_power_iterations` times. What the op does not take (a
    vector, a complex or an empty weight) is computed by torch.

    Derivatives: as `fastgan.functional.spectral_norm`.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The weight [...] divided by its largest singular value."""
        if weight.ndim < 2 or refusal(weight, self._u, self._v, self.dim):
            return super().forward(weight)
        options = Options(self.n_power_iterations, self.eps, self.training, u_first=True, out_dtype=weight.dtype)
        (weight_hat,), (u,), (v,), _ = normalize([weight], [self._u], [self._v], [self.dim], options)
        if self.training:
            with torch.no_grad():
                self._u.copy_(u)
                self._v.copy_(v)
        return weight_hat


def spectral_norm(
    module: nn.Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> nn.Module:
    """Divide a parameter by its largest singular value, as `torch.nn.utils.parametrizations.spectral_norm` does.

        u <- W v / max(|W v|, eps)      v <- W^T u / max(|W^T u|, eps)      sigma = u^T W v      W_hat = W / sigma

    Args:
        module: the module that holds the parameter.
        name: the parameter; float64, float32, bfloat16 or float16 for fastgan's kernels, torch computes any other.
        n_power_iterations: how often u and v are iterated at every read in training mode.
        eps: the smallest norm that is divided by.
        dim: the dimension of the outputs; None is 1 for ConvTranspose1d, 2d and 3d, and 0 for any other module.

    Returns:
        `module`, with the parameter parametrized. The keys of its state_dict, the random numbers drawn, the 15
        iterations at the start and every value after it are those of torch's function of this name.

    Raises:
        ValueError: `module` has no tensor `name`, or `n_power_iterations` is not positive.
        IndexError: the parameter has no dimension `dim`.

    Derivatives: as `fastgan.functional.spectral_norm`, u and v held constant; reverse mode to any order.

    Source: T. Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018.
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"name must be a parameter or a buffer of {type(module).__name__}, got {check.short(name)}")
    if dim is None:
        dim = 1 if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) else 0
    return parametrize.register_parametrization(module, name, SpectralNorm(weight, n_power_iterations, dim, eps))


def refusal(weight: Tensor, u: Tensor, v: Tensor, dim: int) -> str:
    """Why the op does not take a weight whose rows are along `dim`, with its u and v; empty if it does."""
    size, dtype, device = weight.numel(), weight.dtype, weight.device
    if weight.ndim < 2 or not size:
        return f"its shape is {list(weight.shape)}: fewer than two dimensions, or empty"
    if dtype not in check.DTYPES:
        return f"its dtype is {dtype}"
    if dtype != u.dtype or dtype != v.dtype or device != u.device or device != v.device:
        return "its u and v have another dtype or device"
    rows = weight.shape[dim]
    if u.shape != (rows,) or v.shape != (size // rows,):
        return f"its u {list(u.shape)} and v {list(v.shape)} do not fit its shape {list(weight.shape)}"
    return ""


def normalize(
    weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], dims: Sequence[int], options: Options
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """The op, for weights whose rows are along `dims` and that have no `refusal`: what the op returns."""
    rows_first = [weight.movedim(dim, 0) if dim else weight for weight, dim in zip(weights, dims, strict=True)]
    # `refusal` is the check: it costs a quarter of the public function's, and in small networks the checks decide.
    weights_hat, us, vs, sigmas = _op.normalized(rows_first, us, vs, options)
    weights_hat = [
        # With the strides of the weight, as torch's division has them.
        torch.empty_like(weight).copy_(weight_hat.movedim(0, dim)) if dim else weight_hat
        for weight, weight_hat, dim in zip(weights, weights_hat, dims, strict=True)
    ]
    return weights_hat, us, vs, sigmas
