"""Drop-in replacements of torch.nn.utils, and what computes the layers of a whole network together."""

from fastgan.spectral.group import GroupReport, group_spectral_norm, ungroup_spectral_norm
from fastgan.spectral.parametrization import SpectralNorm, spectral_norm

__all__ = ["GroupReport", "SpectralNorm", "group_spectral_norm", "spectral_norm", "ungroup_spectral_norm"]
