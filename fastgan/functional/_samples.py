"""Ops on a batch of samples [N, ...]."""

import torch
from torch import Tensor

from fastgan import check
from fastgan.ops import interpolate as _interpolate
from fastgan.ops import sample_norm as _sample_norm
from fastgan.ops import scale_samples as _scale_samples
from fastgan.ops.samples import accumulation_dtype, promoted


def sample_norm(x: Tensor, *, squared: bool = False) -> Tensor:
    """Euclidean norm of every sample of a batch, in one pass forward and one pass backward.

        s_n = |x_n|, or with `squared` |x_n|^2      dx_n = dy_n x_n / |x_n|, 0 where |x_n| = 0, or 2 dy_n x_n

    Args:
        x: [N, ...], N or any other size may be 0; float64, float32, bfloat16 or float16, any strides. Dense tensors
            with dimension 0 outermost, channels_last too, are read in their layout.
        squared: return the squared norm.

    Returns:
        [N], float32 for half precision, else of x's dtype; computed in that dtype or better. A NaN or an infinity in
        one sample reaches only that sample's result and gradient.

    Raises:
        TypeError, ValueError: an x that is not as above.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x, reverse mode to any order; finite where a norm is 0, where the subgradient is 0 as
    in `torch.linalg.vector_norm`, and so are higher derivatives. Forward mode raises NotImplementedError.

    Source: the norm of gradient penalties, I. Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017,
    section 4, and L. Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018, section 4.1.
    """
    _sample_norm.check_arguments(x)
    return _sample_norm.sample_norm(x, bool(squared))


def scale_samples(x: Tensor, c: Tensor) -> Tensor:
    """Multiply every sample of a batch by a number of its own, in one pass: y_n = c_n x_n.

    With x the gradients g_n that a penalty sees, and c_n what the penalty's derivative is in terms of them, y_n is
    d penalty / d g_n.

    Args:
        x: [N, ...], N or any other size may be 0; float64, float32, bfloat16 or float16, any strides.
        c: [N], of any of these dtypes and on x's device. Products are taken in float32 or better.

    Returns:
        A new tensor of x's shape and dtype and, where x is dense with dimension 0 outermost, its strides.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to x and c, reverse mode to any order. Forward mode raises NotImplementedError.
    """
    _scale_samples.check_arguments(x, c)
    return _scale_samples.scale_samples(x, c)


def interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """Interpolate between two batches, every sample with a number of its own, in one pass.

        y_n = eps_n real_n + (1 - eps_n) fake_n

    Args:
        real: [N, ...], N or any other size may be 0; float64, float32, bfloat16 or float16, any strides.
        fake: the other batch, of real's shape and device; float64, float32, bfloat16 or float16.
        eps: [N], of any of these dtypes and on real's device, 0 to 1 or beyond. Computed with in float32 or better.

    Returns:
        A new tensor of real's shape, in the dtype of both or that to which torch promotes them, and, where real is
        dense with dimension 0 outermost, with its strides.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: with respect to real, fake and eps, reverse mode to any order. Forward mode raises NotImplementedError.

    Source: I. Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, algorithm 1.
    """
    _interpolate.check_arguments(real, fake, eps)
    return _interpolate.interpolate(*promoted(real, fake), eps)


def random_interpolate(real: Tensor, fake: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Interpolate between two batches at random: `interpolate` with eps_n uniform in [0, 1), drawn once per sample.

    Args:
        real: as in `interpolate`.
        fake: as in `interpolate`.
        generator: where eps comes from, by `torch.rand(N, generator=generator)` in float64 for float64 samples, else
            in float32; on real's device. None for torch's own. One state of it gives one result.

    Returns:
        A new tensor, as from `interpolate`.

    Raises:
        TypeError, ValueError: an argument that is not as in `interpolate`; the message names it.
        RuntimeError: the backend that was asked for cannot run here, or the generator is on another device.

    Derivatives: with respect to real and fake, as `interpolate`.
    """
    check.samples(real, "real")
    check.samples(fake, "fake")
    dtype = accumulation_dtype(torch.promote_types(real.dtype, fake.dtype))
    eps = torch.rand(real.shape[0], dtype=dtype, device=real.device, generator=generator)
    return interpolate(real, fake, eps)
