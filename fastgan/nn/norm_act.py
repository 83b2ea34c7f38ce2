"""Normalizations with the activation that follows them: torch.nn's constructors and state_dict keys, and `act`."""

from typing import Any

import torch
from torch import Tensor

from fastgan.functional import norm_act
from fastgan.ops.activations import check_activation


class BatchNormAct2d(torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, then an activation: see `fastgan.functional.norm_act`.

    Args:
        *args: those of `torch.nn.BatchNorm2d`.
        act: "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish" or "gelu".
        alpha: the slope of lrelu below 0.
        **kwargs: those of `torch.nn.BatchNorm2d`.
    """

    def __init__(self, *args: Any, act: str = "relu", alpha: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_activation(act, alpha)
        self.act, self.alpha = act, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Normalized and activated x [N, C, H, W]."""
        return self._normalized(x, self.weight, self.bias)

    def _normalized(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        self._check_input_dim(x)
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
    """Batch normalization whose gain and bias come from a condition, then an activation.

    It holds the running statistics alone; what makes gain and bias of a class or a latent stays outside.

    Args:
        num_features: channels of x.
        eps, momentum, track_running_stats, device, dtype: as for `torch.nn.BatchNorm2d`.
        act, alpha: as for `BatchNormAct2d`.
    """

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(num_features, affine=False, **kwargs)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Normalized x [N, C, H, W], scaled by weight and shifted by bias, [N, C] each, and activated."""
        return self._normalized(x, weight, bias)


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
        check_activation(act, alpha)
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
