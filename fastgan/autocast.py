"""What autocast casts to."""

import torch

# Asked once: torch 2.6 does not trace the question.
_DEVICES = frozenset(name for name in ("cpu", "cuda", "xpu", "mps", "hpu") if torch.amp.is_autocast_available(name))


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype that calls on such a device are cast to; None where autocast is off, and on devices that have none."""
    if device in _DEVICES and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None
