"""The penalties: where each takes the critic's input gradients, and what it makes of them.

For a batch x [N, ...], o_n is the sum of sample n's logits and g_n = d o_n / d x_n its input gradient. Norms and the
penalty are computed in float32 or better; |g_n| has the derivative zero at g_n = 0.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fastgan import check, functional
from fastgan.ops.layout import promoted

__all__ = ["DRAGAN", "R1", "R2", "WGANGP", "MaxGradient", "Penalty", "ZeroCentered"]

NORMS = ("sample", "pixel")


class Penalty(ABC):
    """A penalty on input gradients: `value(gradient of the critic at inputs(...))`.

    A subclass is a penalty of your own. What its `value` computes with besides the gradients is taken as data.
    """

    name: ClassVar[str]
    points: ClassVar[Literal["real", "fake", "interpolates", "noisy_real"]]

    @abstractmethod
    def value(self, grads: Tensor) -> Tensor:
        """The penalty [] for input gradients [N, ...]; differentiable."""

    @abstractmethod
    def inputs(self, real: Tensor, fake: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """The points [N, ...] at which gradients are taken, without history."""


@dataclass(frozen=True)
class _AtSamples(Penalty):
    """gamma / 2 * mean_n |g_n|^2."""

    gamma: float = 10.0

    def __post_init__(self):
        _check_factor(self.gamma, "gamma")

    def value(self, grads: Tensor) -> Tensor:
        """gamma / 2 * mean_n |g_n|^2."""
        return self.gamma / 2 * _squared_norms(grads).mean()

    def inputs(self, real: Tensor, fake: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """The samples that `points` names; the others are not looked at."""
        samples = {"real": real, "fake": fake}[self.points]
        _check_samples(samples, self.points)
        return samples.detach()


@dataclass(frozen=True)
class R1(_AtSamples):
    """gamma / 2 * mean_n |g_n|^2 at the real samples.

    Source: L. Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018, equation 9.
    """

    name: ClassVar[str] = "r1"
    points: ClassVar[str] = "real"


@dataclass(frozen=True)
class R2(_AtSamples):
    """gamma / 2 * mean_n |g_n|^2 at the fake samples.

    Source: L. Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018, equation 10.
    """

    name: ClassVar[str] = "r2"
    points: ClassVar[str] = "fake"


@dataclass(frozen=True)
class _Interpolated(Penalty):
    """A penalty at eps * real + (1 - eps) * fake, with one eps ~ U(0, 1) per sample.

    A given `eps` is taken instead: [N], or what broadcasts to the samples' shape.
    """

    points: ClassVar[str] = "interpolates"
    weight: float = 10.0
    # Tensors do not compare to one bool.
    eps: Tensor | None = field(default=None, kw_only=True, compare=False)

    def __post_init__(self):
        _check_factor(self.weight, "weight")
        if self.eps is not None and not (isinstance(self.eps, Tensor) and self.eps.is_floating_point()):
            raise TypeError(f"eps must be a floating-point tensor or None, got {check.describe(self.eps)}")

    def inputs(self, real: Tensor, fake: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """eps * real + (1 - eps) * fake, in the dtype of both; of two, in that to which torch promotes them."""
        _check_samples(real, "real")
        _check_samples(fake, "fake")
        check.on_device_of(fake, "fake", real, "real")
        if fake.shape != real.shape:
            raise ValueError(f"fake must have the shape of real, {list(real.shape)}, got {check.describe(fake)}")
        real, fake = promoted(real.detach(), fake.detach())
        if self.eps is None:
            eps = torch.rand(len(real), dtype=_exact(real), device=real.device, generator=generator)
        else:
            eps = self.eps.detach().to(_exact(real))
        return _interpolate(real, fake, eps)


@dataclass(frozen=True)
class WGANGP(_Interpolated):
    """weight * mean_n (|g_n| - center)^2 at random interpolates.

    `one_sided` takes max(0, |g_n| - center)^2 instead. With `norm="pixel"`, |g| is the norm over the channels of
    g [N, C, ...] at every position, and the mean is over samples and positions.

    Source: I. Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, equation 3. One-sided: H. Petzka
    et al., On the Regularization of Wasserstein GANs, ICLR 2018.
    """

    name: ClassVar[str] = "wgan_gp"
    center: float = 1.0
    one_sided: bool = False
    norm: Literal["sample", "pixel"] = "sample"

    def __post_init__(self):
        super().__post_init__()
        _check_factor(self.center, "center")
        check.choice(self.norm, "norm", NORMS)

    def value(self, grads: Tensor) -> Tensor:
        """weight * mean (|g| - center)^2."""
        distances = (_norms(grads) if self.norm == "sample" else _pixel_norms(grads)) - self.center
        return self.weight * (distances.clamp(min=0) if self.one_sided else distances).square().mean()


@dataclass(frozen=True)
class ZeroCentered(_Interpolated):
    """weight * mean_n |g_n|^2 at random interpolates.

    Source: H. Thanh-Tung et al., Improving Generalization and Stability of Generative Adversarial Networks, ICLR 2019.
    """

    name: ClassVar[str] = "zero_centered"

    def value(self, grads: Tensor) -> Tensor:
        """weight * mean_n |g_n|^2."""
        return self.weight * _squared_norms(grads).mean()


@dataclass(frozen=True)
class MaxGradient(_Interpolated):
    """weight * max_n |g_n|^2 at random interpolates; equal maxima share the derivative.

    Source: Z. Zhou et al., Lipschitz Generative Adversarial Nets, ICML 2019.
    """

    name: ClassVar[str] = "max_gradient"
    weight: float = 1.0

    def value(self, grads: Tensor) -> Tensor:
        """weight * max_n |g_n|^2."""
        return self.weight * _squared_norms(grads).amax()


@dataclass(frozen=True)
class DRAGAN(Penalty):
    """weight * mean_n (|g_n| - center)^2 at real + scale * s * noise.

    The noise is U(0, 1) for every element, and s is the standard deviation of all elements of `real` about their common
    mean, divided by their number.

    Source: N. Kodali et al., On Convergence and Stability of GANs, 2017; the noise is that of the authors'
    experiments.
    """

    name: ClassVar[str] = "dragan"
    points: ClassVar[str] = "noisy_real"
    weight: float = 10.0
    center: float = 1.0
    scale: float = 0.5

    def __post_init__(self):
        for name in ("weight", "center", "scale"):
            _check_factor(getattr(self, name), name)

    def value(self, grads: Tensor) -> Tensor:
        """weight * mean_n (|g_n| - center)^2."""
        return self.weight * (_norms(grads) - self.center).square().mean()

    def inputs(self, real: Tensor, fake: Tensor | None, generator: torch.Generator | None = None) -> Tensor:
        """real + scale * s * noise, in the dtype of `real`; `fake` is not looked at."""
        _check_samples(real, "real")
        x = real.detach().to(_exact(real))
        noise = torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator)
        return (x + self.scale * x.std(correction=0) * noise).to(real.dtype)


# --- norms and points ---


def _squared_norms(g: Tensor) -> Tensor:
    """|g_n|^2 [N] of g [N, ...]."""
    return functional.sample_norm(g, squared=True)


def _norms(g: Tensor) -> Tensor:
    """|g_n| [N] of g [N, ...]."""
    return functional.sample_norm(g)


def _pixel_norms(g: Tensor) -> Tensor:
    """Norms [N, ...] over the channels of g [N, C, ...]."""
    if g.ndim < 2:
        raise ValueError(f'norm="pixel" takes the gradients of samples [N, C, ...], got {check.describe(g)}')
    return torch.linalg.vector_norm(g, dim=1, dtype=_exact(g))


def _interpolate(real: Tensor, fake: Tensor, eps: Tensor) -> Tensor:
    """eps * real + (1 - eps) * fake for samples [N, ...] and eps [N], or an eps that broadcasts."""
    if eps.device != real.device:
        raise ValueError(f"eps must be on the device of real, {real.device}, got {check.describe(eps)}")
    if eps.shape == real.shape[:1]:
        return functional.interpolate(real, fake, eps)
    if eps.ndim == 1 or eps.ndim > real.ndim or not _broadcasts(eps.shape, real.shape):
        raise ValueError(f"eps must be [{len(real)}] or broadcast to {list(real.shape)}, got {check.describe(eps)}")
    return (eps * real + (1 - eps) * fake).to(real.dtype)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def _exact(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# --- checks ---


def _check_factor(value: Any, name: str) -> None:
    check.finite(value, name, least=0)


def _check_samples(value: Any, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor of samples [N, ...], got {check.describe(value)}")
    check.dtype(value.dtype, name)
    if value.ndim == 0:
        raise ValueError(f"{name} must be [N, ...], got {check.describe(value)}")
