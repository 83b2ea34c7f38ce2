"""What autocast casts to."""

import torch


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype that calls on such a device are cast to; None where autocast is off, and on devices that have none."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None
