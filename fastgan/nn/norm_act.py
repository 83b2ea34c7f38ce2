"""Normalizations with the activation that follows them: torch.nn's constructors and state_dict keys, and `act`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from fastgan import check
from fastgan.functional import norm_act
from fastgan.reference.activations import FACTS


class BatchNormAct2d(_NormBase):
    """`torch.nn.BatchNorm2d`, then an activation: see `fastgan.functional.norm_act`.

    Not an instance of `torch.nn.BatchNorm2d`, although all its attributes and keys are there: torch's
    `SyncBatchNorm.convert_sync_batchnorm` would replace it by a module without the activation. So the statistics of
    several processes are not joined.

    Args:
        *args: those of `torch.nn.BatchNorm2d`.
        act: "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish" or "gelu".
        alpha: the slope of lrelu below 0.
        **kwargs: those of `torch.nn.BatchNorm2d`.
    """

    def __init__(self, *args: Any, act: str = "relu", alpha: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check.activation(act, alpha, FACTS)
        self.act, self.alpha = act, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Normalized and activated x [N, C, H, W]."""
        return self._normalized(x, self.weight, self.bias)

    def _normalized(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"x must be [N, C, H, W], got {check.describe(x)}")
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        # As in torch: in training running statistics that are not tracked are left alone, in evaluation used if given.
        used = not self.training or self.track_running_stats
        return norm_act(
            x,
            weight,
            bias,
            self.running_mean if used else None,
            self.running_var if used else None,
            training=self.training or self.running_mean is None,
            momentum=momentum,
            eps=self.eps,
            act=self.act,
            alpha=self.alpha,
        )

    def extra_repr(self) -> str:
        """What torch's says, and the activation."""
        return f"{super().extra_repr()}, act={self.act}"


class ConditionalBatchNormAct2d(BatchNormAct2d):
    """Batch normalization whose gain and bias come from a condition y, then an activation.

        act((1 + gain(y)) x_hat + bias(y))

    Keys are those of BigGAN's: gain.*, bias.*, and the running statistics under torch's names or BigGAN's, stored_mean
    and stored_var.

    Args:
        num_features: channels of x.
        condition: (num_features) -> a module that makes [N, num_features] of y; called for the gain and for the bias.
            `partial(nn.Linear, 148, bias=False)` takes vectors, `partial(nn.Embedding, 1000)` takes classes.
        **kwargs: eps, momentum, track_running_stats, device and dtype of `torch.nn.BatchNorm2d`; act and alpha of
            `BatchNormAct2d`.

    Source: A. Brock et al., Large Scale GAN Training, ICLR 2019, appendix B.
    """

    def __init__(self, num_features: int, condition: Callable[[int], torch.nn.Module], **kwargs: Any) -> None:
        super().__init__(num_features, affine=False, **kwargs)
        del self.bias  # torch's parameter, which is None
        self.gain, self.bias = condition(num_features), condition(num_features)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Normalized, scaled, shifted and activated x [N, C, H, W]."""
        return self._normalized(x, 1 + self.gain(y), self.bias(y))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for theirs, ours in (("stored_mean", "running_mean"), ("stored_var", "running_var")):
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs)
        super()._load_from_state_dict(state_dict, prefix, *args)


class InstanceNormAct2d(torch.nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d`, then an activation: see `fastgan.functional.norm_act`.

    Args:
        *args: those of `torch.nn.InstanceNorm2d`.
        act: as for `BatchNormAct2d`.
        alpha: as for `BatchNormAct2d`.
        **kwargs: those of `torch.nn.InstanceNorm2d`.
    """

    def __init__(self, *args: Any, act: str = "relu", alpha: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check.activation(act, alpha, FACTS)
        self.act, self.alpha = act, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Normalized and activated x [N, C, H, W], or [C, H, W]."""
        self._check_input_dim(x)
        if x.ndim == self._get_no_batch_dim():
            return self.forward(x.unsqueeze(0)).squeeze(0)
        return norm_act(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            norm="instance",
            training=self.training or not self.track_running_stats,
            momentum=0.0 if self.momentum is None else self.momentum,
            eps=self.eps,
            act=self.act,
            alpha=self.alpha,
        )

    def extra_repr(self) -> str:
        """What torch's says, and the activation."""
        return f"{super().extra_repr()}, act={self.act}"
