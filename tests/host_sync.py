"""Where the host would wait for a GPU: found on the CPU, by taking every tensor for one on a device."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Operations that bring a number, or a shape that depends on values, to the host.
WAITING_OPS = {
    *(aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.allclose),
    *(aten.nonzero, aten.nonzero_numpy, aten.argwhere, aten.masked_select, aten.bincount),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive),
}
# Those that read memory without an operation, and those that copy between host and device and wait for it.
WAITING_FUNCTIONS = {
    *(Tensor.tolist, Tensor.numpy, Tensor.item, Tensor.cpu, Tensor.__array__),
    *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__contains__),
}
UPLOADS = {torch.tensor, torch.as_tensor, torch.asarray}


class HostWaitedError(AssertionError):
    """The host would have waited for the device here."""


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


class _NoWaitingOps(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        waits = packet in WAITING_OPS
        # A mask's number of elements is its number of trues.
        if packet in {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}:
            waits = any(map(_is_mask, args[1]))
        if packet is aten.repeat_interleave and kwargs.get("output_size") is None:
            waits = not isinstance(args[1] if len(args) > 1 else None, int)
        if waits:
            raise HostWaitedError(f"{func} waits for the device")
        return func(*args, **kwargs)


class _NoWaitingFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in WAITING_FUNCTIONS:
            raise HostWaitedError(f"{func.__name__} waits for the device")
        # By its name: a `torch.device` may be that of another tensor, the same one on a GPU.
        if func is Tensor.to and any(isinstance(to, str) and to == "cpu" for to in (*args[1:], kwargs.get("device"))):
            raise HostWaitedError('.to("cpu") waits for the device')
        # What stays on the host names no device.
        if func in UPLOADS and kwargs.get("device") is not None and not isinstance(args[0], Tensor):
            raise HostWaitedError(f"torch.{func.__name__} of host data with a device waits for the copy")
        return func(*args, **kwargs)


class NoHostWait:
    """A context in which `HostWaitedError` is raised where code would wait for a GPU."""

    def __init__(self):
        self.modes = _NoWaitingOps(), _NoWaitingFunctions()

    def __enter__(self):
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *raised):
        for mode in reversed(self.modes):
            mode.__exit__(*raised)


def after_first(call: Callable[[], object], times: int = 2) -> None:
    """Call it `times` times, as code that looks, proves and keeps what it found may do, then once without waiting."""
    for _ in range(times):
        call()
    with NoHostWait():
        call()
