"""Public functions."""

from fastgan.convolution.plain import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from fastgan.convolution.resampled import (
    conv_downsample1d,
    conv_downsample2d,
    conv_downsample3d,
    resampling_form,
    upsample_conv1d,
    upsample_conv2d,
    upsample_conv3d,
)
from fastgan.functional._bias_act import bias_act
from fastgan.functional._channels import norm_act, pixel_shuffle_act, scale_shift_act
from fastgan.functional._samples import interpolate, random_interpolate, sample_norm, scale_samples
from fastgan.functional._spectral_norm import SpectralNormResult, spectral_norm
from fastgan.functional._upfirdn2d import (
    downsample2d,
    filter2d,
    setup_filter,
    upfirdn1d,
    upfirdn2d,
    upfirdn2d_bias_act,
    upsample2d,
)

__all__ = [
    "SpectralNormResult",
    "bias_act",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_downsample1d",
    "conv_downsample2d",
    "conv_downsample3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "downsample2d",
    "filter2d",
    "interpolate",
    "norm_act",
    "pixel_shuffle_act",
    "random_interpolate",
    "resampling_form",
    "sample_norm",
    "scale_samples",
    "scale_shift_act",
    "setup_filter",
    "spectral_norm",
    "upfirdn1d",
    "upfirdn2d",
    "upfirdn2d_bias_act",
    "upsample2d",
    "upsample_conv1d",
    "upsample_conv2d",
    "upsample_conv3d",
]
