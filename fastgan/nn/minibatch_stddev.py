"""Minibatch standard deviation as a layer of a critic."""

from torch import Tensor, nn

from fastgan import functional


class MinibatchStddev(nn.Module):
    """`fastgan.functional.minibatch_stddev`: [N, C, ...] -> [N, C + num_channels, ...]. It has no state.

    Args:
        group_size: samples of a group; None for the whole batch.
        num_channels: channels that are appended.
        eps: added to the variance.
    """

    def __init__(self, group_size: int | None = 4, num_channels: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.group_size, self.num_channels, self.eps = group_size, num_channels, eps

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] -> [N, C + num_channels, ...]."""
        return functional.minibatch_stddev(x, self.group_size, self.num_channels, self.eps)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"group_size={self.group_size}, num_channels={self.num_channels}, eps={self.eps}"
