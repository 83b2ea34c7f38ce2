"""torch's own spectral norm, in both of its styles, wherever a codebase takes it from."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from fastgan.compat.patching import Family
from fastgan.nn.utils.spectral_norm import normalize, refusal, spectral_norm
from fastgan.ops.spectral_norm import Options


class HookSpectralNorm(SpectralNorm):
    """torch's hook, whose buffers, keys and start are kept; the weight is computed by fastgan's op."""

    def compute_weight(self, module: nn.Module, do_power_iteration: bool) -> Tensor:
        """The weight divided by its largest singular value; v is iterated first, as torch's hook does."""
        weight, u, v = (getattr(module, self.name + suffix) for suffix in ("_orig", "_u", "_v"))
        if refusal(weight, u, v, self.dim):
            return super().compute_weight(module, do_power_iteration)
        options = Options(self.n_power_iterations, self.eps, do_power_iteration, u_first=False, out_dtype=weight.dtype)
        (weight_hat,), (new_u,), (new_v,), _ = normalize([weight], [u], [v], [self.dim], options)
        if do_power_iteration:
            with torch.no_grad():
                u.copy_(new_u)
                v.copy_(new_v)
        return weight_hat


def hook_spectral_norm(
    module: nn.Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> nn.Module:
    """`torch.nn.utils.spectral_norm`: the hook, with torch's keys."""
    if dim is None:
        dim = 1 if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)) else 0
    HookSpectralNorm.apply(module, name, n_power_iterations, dim, eps)
    return module


_FUNCTIONS: dict[str, dict[str, Any]] = {
    "torch.nn.utils": {"spectral_norm": hook_spectral_norm},
    "torch.nn.utils.parametrizations": {"spectral_norm": spectral_norm},
}
FAMILY = Family(summary="torch.nn.utils.spectral_norm and its parametrization", functions=_FUNCTIONS)
