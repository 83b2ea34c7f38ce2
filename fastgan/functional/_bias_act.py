"""Bias and activation."""

from typing import Literal

from torch import Tensor

from fastgan.ops import bias_act as _bias_act
from fastgan.ops.overrides import overridable


@overridable
def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    keep: Literal["output", "input"] = "output",
) -> Tensor:
    """Add a bias, apply an activation, scale and clamp, in one pass forward and one pass backward.

        y = clamp(gain f(x + b))

        linear z        relu max(z, 0)        lrelu max(z, 0) + alpha min(z, 0)        tanh        sigmoid
        elu z > 0 ? z : exp(z) - 1            selu 1.0507... (z > 0 ? z : 1.6732... (exp(z) - 1))
        softplus log(1 + exp(z)), z beyond 20            swish z sigmoid(z)            gelu z Phi(z), the exact one

    Args:
        x: one dimension or more, any of which may be 0; float64, float32, bfloat16 or float16, any strides. Tensors
            that are dense with dimension 0 outermost, channels_last too, keep their layout. Autocast does not cast.
        b: [C], as long as dimension `dim` of x, of any of these dtypes and on x's device; None for no bias. It is
            added in float32 or better: a float32 bias of a bfloat16 x is not rounded first.
        dim: the dimension of x that b runs along; without b it says nothing.
        act: the activation f, by the name above.
        alpha: the slope of lrelu below 0; None for 0.2. Other activations do not read it.
        gain: what f is multiplied by; None for sqrt(2) with relu, lrelu and swish, which keeps the variance of a
            normal distribution about as it is, and for 1 with the others. 1 for none.
        clamp: y is kept between -clamp and clamp, 0 or more and rounded to x's dtype; None for no clamp.
        keep: what is kept for the backward. "output": y wherever slopes can be taken from it, so that x may be freed;
            y must not be changed in place before the backward. "input": x and b, and y may be changed.

    Returns:
        A new tensor of x's shape and dtype and, where x is dense with dimension 0 outermost, its strides. Computed in
        float32 or better and rounded once. A NaN stays one.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x and b, reverse mode to any order; first and second ones by kernels, higher ones in
    plain torch. At a kink they are torch's: 0 for relu at 0, alpha for lrelu; and 0 where |y| = clamp, where torch's
    is 1. Slopes cannot be taken from y, and are taken from x and b, for swish and gelu, for alpha < 0 and for
    |gain| <= 0.5 or > 256. Linear without clamp keeps nothing. The gradient of b is computed only where it is asked
    for, its sum always in the same order. Second derivatives of linear, relu and lrelu are None, not zeros. torch.func
    differentiates the plain formula. Forward mode raises NotImplementedError.

    Source: the arguments are those of T. Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR
    2020, and the code that came with it; gain: K. He et al., Delving Deep into Rectifiers, ICCV 2015.
    """
    _bias_act.check_arguments(x, b, dim, act, alpha, gain, clamp, keep)
    dim = dim % x.ndim if b is not None else 0
    return _bias_act.bias_act(x, b, _bias_act.make_spec(dim, act, alpha, gain, clamp, keep))
