"""torch's own spectral norm, in both of its styles, wherever a codebase takes it from."""

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from fastgan.compat.comparison import Call, Ours
from fastgan.compat.patching import Family
from fastgan.ops.spectral_norm import Options
from fastgan.spectral.parametrization import normalize, refusal, spectral_norm


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
    # `apply` makes a hook of torch's class, whichever class it is called on.
    SpectralNorm.apply(module, name, n_power_iterations, dim, eps).__class__ = HookSpectralNorm
    return module


def _two_steps(module: nn.Module) -> list[Tensor]:
    x = torch.linspace(-1, 1, 16, dtype=torch.float64).view(2, 8)
    training = [module(x), module(x)]
    return [*training, module.eval()(x), *module.buffers()]


_CALLS = [
    Call([nn.Linear(8, 3, dtype=torch.float64)], options, _two_steps)
    for options in ({}, {"name": "weight", "n_power_iterations": 2, "eps": 1e-3, "dim": 1})
]
_FUNCTIONS = {
    "torch.nn.utils": {"spectral_norm": Ours({"": hook_spectral_norm}, _CALLS)},
    "torch.nn.utils.parametrizations": {"spectral_norm": Ours({"": spectral_norm}, _CALLS)},
}
FAMILY = Family(summary="torch.nn.utils.spectral_norm and its parametrization", functions=_FUNCTIONS)
