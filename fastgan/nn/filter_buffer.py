"""A FIR filter as the buffer of a module."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastgan import functional


class FilterBuffer(nn.Module):
    """What modules with a FIR filter share.

    The buffer stays float32, as ops compute with it, whatever the module is cast to. A module that is made on the meta
    device gets its taps with its memory.
    """

    _buffer_name: ClassVar[str]

    def _register_filter(self, f: Any, device: torch.device | str | None = None, persistent: bool = True) -> None:
        """f: taps, as `setup_filter` takes them; None for no filter. On torch's default device, unless one is given."""
        self._taps = None if f is None else functional.setup_filter(f)
        # Before torch 2.8 get_default_device does not see `with torch.device(...)`.
        device = torch.empty(0).device if device is None else device
        self.register_buffer(self._buffer_name, None if f is None else self._taps.to(device), persistent=persistent)

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        before: Tensor | None = getattr(self, self._buffer_name)
        super()._apply(fn, recurse)
        if before is not None:
            exact = self._taps if before.is_meta else before
            setattr(self, self._buffer_name, exact.to(getattr(self, self._buffer_name).device))
        return self
