"""Public functions."""

from fastgan.functional._channels import norm_act, pixel_shuffle_act, scale_shift_act
from fastgan.functional._samples import interpolate, random_interpolate, sample_norm, scale_samples
from fastgan.functional._spectral_norm import SpectralNormResult, spectral_norm

__all__ = [
    "SpectralNormResult",
    "interpolate",
    "norm_act",
    "pixel_shuffle_act",
    "random_interpolate",
    "sample_norm",
    "scale_samples",
    "scale_shift_act",
    "spectral_norm",
]
