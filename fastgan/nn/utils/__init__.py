"""Drop-in replacements of torch.nn.utils, and what computes the layers of a whole network together."""

from fastgan.nn.utils.spectral_norm import SpectralNorm, spectral_norm
from fastgan.nn.utils.spectral_norm_group import GroupReport, group_spectral_norm, ungroup_spectral_norm

__all__ = ["GroupReport", "SpectralNorm", "group_spectral_norm", "spectral_norm", "ungroup_spectral_norm"]
