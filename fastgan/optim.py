"""Updates over the parameters of whole networks."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def ema_update(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move `ema`'s parameters towards `model`'s, in place; copy the buffers.

        p_ema <- decay * p_ema + (1 - decay) * p        b_ema <- b

    Buffers (batch norm's statistics, spectral norm's u and v) are state, not weights: an average of them means nothing.

    ema, model: two networks of one structure. decay: in [0, 1].
    Raises ValueError when the decay is out of range or the networks' names or shapes differ. Not differentiable.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay = {decay!r}: expected a number from 0 to 1")
    old, new = _matched(dict(ema.named_parameters()), dict(model.named_parameters()), "parameter")
    if old:
        torch._foreach_lerp_(old, new, 1 - decay)
    old, new = _matched(dict(ema.named_buffers()), dict(model.named_buffers()), "buffer")
    if old:
        torch._foreach_copy_(old, new)


def _matched(ema: dict[str, Tensor], model: dict[str, Tensor], what: str) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of both in one order, or a ValueError that names the first which has no partner."""
    for name in ema.keys() ^ model.keys():
        raise ValueError(f"{what} {name!r} is in {'ema' if name in ema else 'model'} only: expected equal structures")
    for name, tensor in ema.items():
        if tensor.shape != model[name].shape:
            raise ValueError(
                f"{what} {name!r} has shape {list(tensor.shape)} in ema, {list(model[name].shape)} in model"
            )
    return list(ema.values()), [model[name] for name in ema]
