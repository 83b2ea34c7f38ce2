"""The device that training runs on."""

import torch


def pick_device(name: str) -> torch.device:
    """The device called `name`; 'auto' is a GPU where there is one. Raises ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # torch raises RuntimeError or AssertionError for a device that it was not built for or cannot find
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device = {name!r}: {error}; expected cpu, cuda, cuda:1, ... or auto") from error
    return device
