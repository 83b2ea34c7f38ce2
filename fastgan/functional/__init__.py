"""Public functions."""

from fastgan.functional._samples import interpolate, random_interpolate, sample_norm, scale_samples
from fastgan.functional._spectral_norm import SpectralNormResult, spectral_norm
from fastgan.functional._upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn1d, upfirdn2d, upsample2d

__all__ = [
    "SpectralNormResult",
    "downsample2d",
    "filter2d",
    "interpolate",
    "random_interpolate",
    "sample_norm",
    "scale_samples",
    "setup_filter",
    "spectral_norm",
    "upfirdn1d",
    "upfirdn2d",
    "upsample2d",
]
