"""Counting floating-point operations, those of backward passes and of autograd.Functions included."""

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def count_flops(run):
    """Of matrix products and convolutions in one call; torch's own counter cannot follow autograd.grad."""
    with _Counter() as counter:
        run()
    return counter.flops
