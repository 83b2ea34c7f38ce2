"""Public functions."""

from fastgan.convolution.plain import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from fastgan.convolution.resampled import (
    conv_downsample1d,
    conv_downsample2d,
    conv_downsample3d,
    resampling_form,
    upsample_conv1d,
    upsample_conv2d,
    upsample_conv3d,
)
from fastgan.ops.bias_act import bias_act
from fastgan.ops.filtering import downsample2d, filter2d, setup_filter, upfirdn1d, upsample2d
from fastgan.ops.interpolate import interpolate, random_interpolate
from fastgan.ops.minibatch_stddev import minibatch_stddev
from fastgan.ops.norm_act import norm_act
from fastgan.ops.pixel_shuffle_act import pixel_shuffle_act
from fastgan.ops.sample_norm import sample_norm
from fastgan.ops.scale_samples import scale_samples
from fastgan.ops.scale_shift_act import scale_shift_act
from fastgan.ops.spectral_norm import SpectralNormResult, spectral_norm
from fastgan.ops.upfirdn2d import upfirdn2d
from fastgan.ops.upfirdn2d_bias_act import upfirdn2d_bias_act

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
    "minibatch_stddev",
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
