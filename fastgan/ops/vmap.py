"""What torch.vmap makes of an op's tensors: more samples of one batch, or more channels."""

from torch import Tensor


def fold(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """A vmapped tensor [N, ...] of `size` batches at `dim` (None: one for all of them) as [size * N, ...]."""
    batches = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return batches.reshape(size * batches.shape[1], *batches.shape[2:])


def unfold(tensor: Tensor, size: int) -> Tensor:
    """[size * N, ...] as [size, N, ...]."""
    return tensor.view(size, tensor.shape[0] // size, *tensor.shape[1:])


def fold_channels(tensor: Tensor | None, dim: int | None, size: int, channels: int) -> Tensor | None:
    """A vmapped tensor of `size` batches at `dim` (None: one for all), its dimension `channels` counting for all."""
    if tensor is None:
        return None
    batches = tensor.unsqueeze(0).expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return batches.movedim(0, channels).flatten(channels, channels + 1)


def unfold_channels(tensor: Tensor, size: int, channels: int) -> Tensor:
    """The other way, the batches then being dimension `channels`."""
    return tensor.unflatten(channels, (size, tensor.shape[channels] // size))
