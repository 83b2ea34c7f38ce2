"""Public functions."""

from fastgan.functional._bias_act import bias_act
from fastgan.functional._samples import interpolate, random_interpolate, sample_norm, scale_samples
from fastgan.functional._spectral_norm import SpectralNormResult, spectral_norm

__all__ = [
    "SpectralNormResult",
    "bias_act",
    "interpolate",
    "random_interpolate",
    "sample_norm",
    "scale_samples",
    "spectral_norm",
]
