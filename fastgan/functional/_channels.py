"""Ops on channels [N, C, ...]: an affine map, a normalization or a pixel shuffle, and an activation, in one pass."""

from torch import Tensor

from fastgan.ops import norm_act as _norm_act
from fastgan.ops import pixel_shuffle_act as _pixel_shuffle_act
from fastgan.ops import scale_shift_act as _scale_shift_act
from fastgan.ops.activations import alpha_of
from fastgan.ops.overrides import overridable
from fastgan.ops.samples import accumulation_dtype


@overridable
def scale_shift_act(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, act: str = "relu", alpha: float | None = None
) -> Tensor:
    """Scale and shift every channel, and apply an activation, in one pass: y = f(scale x + shift).

        z = scale x + shift, g = f'(z) dy      dx = scale g      dscale = sum of x g      dshift = sum of g

    Args:
        x: [N, C, ...], any size may be 0; float64, float32, bfloat16 or float16, any strides. Dense tensors with the
            channels outermost or innermost (channels_last) keep their layout, others are made contiguous.
        scale: [C], or [N, C] for every sample its own, of any of these dtypes and on x's device; None for 1.
        shift: the same; None for 0.
        act: "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish" or "gelu".
        alpha: the slope of lrelu below 0, by default 0.2; no other activation reads it.

    Returns:
        A new tensor of x's shape and dtype, and its strides where its layout is kept; computed in float32 or
        better.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x, scale and shift, reverse mode to any order; one pass backward for all three, and no
    sum that nobody asked for. Sums are taken in a fixed order. Forward mode raises NotImplementedError.

    Source: the conditional normalization of H. de Vries et al., Modulating early visual processing by language, NIPS
    2017, section 3, as generators apply it.
    """
    _scale_shift_act.check_arguments(x, scale, shift, act, alpha)
    return _scale_shift_act.scale_shift_act(x, scale, shift, None, act, alpha_of(act, alpha))


@overridable
def norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    norm: str = "batch",
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    act: str = "relu",
    alpha: float | None = None,
) -> Tensor:
    """Normalize every channel, scale and shift it, and apply an activation: batch or instance normalization.

        y = f(weight (x - mean) / sqrt(var + eps) + bias)

    In training mean and biased variance are those of x, over the batch and all positions (norm="batch") or over the
    positions of every sample (norm="instance"); else they are the running ones. Two passes forward and two backward.

    Args:
        x: [N, C, ...] as in `scale_shift_act`.
        weight: [C], or [N, C] for every sample its own (conditional normalization), of any floating-point dtype and on
            x's device; None for 1.
        bias: the same; None for 0.
        running_mean: [C], updated in place in training: (1 - momentum) running_mean + momentum mean. Optional there.
        running_var: [C], the same with the unbiased variance. For norm="instance" both take the mean over the batch.
        norm: "batch" or "instance".
        training: normalize by x's own statistics.
        momentum: as above.
        eps: added to the variance; more than 0 for norm="batch" in training, and 0 or more in evaluation, as in torch.
        act: as in `scale_shift_act`.
        alpha: as in `scale_shift_act`.

    Returns:
        A new tensor as from `scale_shift_act`. Statistics are taken and kept in float32 or better.

    Raises:
        TypeError, ValueError: an argument that is not as above, or one value per channel in training.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x, weight and bias, reverse mode to any order, and no more than was asked for. Forward
    mode raises NotImplementedError.

    Source: S. Ioffe and C. Szegedy, Batch Normalization, ICML 2015, algorithm 1; D. Ulyanov et al., Instance
    Normalization, 2016, equation 3; A. Brock et al., Large Scale GAN Training for High Fidelity Natural Image
    Synthesis, ICLR 2019, appendix B, for gains and biases from an embedding.
    """
    _norm_act.check_arguments(x, weight, bias, running_mean, running_var, norm, training, momentum, eps, act, alpha)
    alpha = alpha_of(act, alpha)
    if training:
        y, mean, var = _norm_act.norm_act(x, weight, bias, norm == "instance", float(eps), act, alpha)
        _norm_act.update_running(running_mean, running_var, mean, var, x, momentum)
        return y
    scale = _norm_act.scale_of(weight, running_var.to(accumulation_dtype(x.dtype)), eps)
    return _scale_shift_act.scale_shift_act(x, scale, bias, running_mean, act, alpha)


@overridable
def pixel_shuffle_act(
    x: Tensor, bias: Tensor | None = None, upscale_factor: int = 2, act: str = "linear", alpha: float | None = None
) -> Tensor:
    """Add a bias, apply an activation and shuffle channels into pixels, in one pass.

        y[n, c, r h + i, r w + j] = f(x[n, r r c + r i + j, h, w] + bias[r r c + r i + j])      r = upscale_factor

    Args:
        x: [N, C r r, H, W], any size may be 0; float64, float32, bfloat16 or float16, any strides. channels_last is
            computed as it lies, other layouts are made contiguous.
        bias: [C r r], of any of these dtypes and on x's device; None for 0.
        upscale_factor: r, from 1 to 16.
        act: as in `scale_shift_act`.
        alpha: as in `scale_shift_act`.

    Returns:
        [N, C, r H, r W] of x's dtype, channels_last where x is.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x and bias, reverse mode to any order; the bias's only where it is asked for. Forward
    mode raises NotImplementedError.

    Source: W. Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network, CVPR 2016, equation 4.
    """
    _pixel_shuffle_act.check_arguments(x, bias, upscale_factor, act, alpha)
    return _pixel_shuffle_act.pixel_shuffle_act(x, bias, upscale_factor, act, alpha_of(act, alpha))
