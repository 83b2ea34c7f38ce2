"""How much of a forward's work is in calls that are replaced: an estimate, from shapes alone."""

from typing import Any, NamedTuple

from torch import Tensor

from fastgan.intercept import Call

# How many multiply-adds take as long as one value takes to write.
_BALANCE = {"cpu": 32}
_BALANCE_ELSEWHERE = 256
# How often torch's forward reads or writes the weight of a spectral norm.
_PASSES = 5
LITTLE = 0.1


class Work(NamedTuple):
    """Of one call: its multiply-adds, and all of it; `balance` is what each value that it writes counts as."""

    products: int
    all: int
    balance: int


class Share(NamedTuple):
    """Of one kind of forward: the work in calls that are replaced, all of it, and where the multiply-adds are.

    Args:
        replaced, all: work.
        stay, products: multiply-adds in convolutions, linear layers included, that stay as they are, and all of them.
    """

    replaced: float
    all: float
    stay: float
    products: float


def work(call: Call, out: Any) -> Work:
    """That of a call that returned `out`."""
    if not isinstance(out, Tensor):
        return Work(0, 0, 0)
    balance = _BALANCE.get(out.device.type, _BALANCE_ELSEWHERE)
    products = _products(call, out)
    return Work(products, products + out.numel() * balance, balance)


def share(calls: list[Work], replaced: set[int], weights: int) -> Share:
    """Of a forward with these calls.

    Args:
        calls: all of them.
        replaced: indices of those that are.
        weights: how many values a spectral norm of all layers together reads.
    """
    norms = weights * _PASSES * max((each.balance for each in calls), default=0)
    ours = [each for i, each in enumerate(calls) if i in replaced]
    products = sum(each.products for each in calls)
    return Share(
        replaced=sum(each.all for each in ours) + norms,
        all=sum(each.all for each in calls) + norms,
        stay=products - sum(each.products for each in ours),
        products=products,
    )


def verdict(shares: list[Share]) -> str:
    """That there is little to gain, and why, if so in every kind of forward; else nothing."""
    known = [each for each in shares if each.all]
    if not known:
        return ""
    most = max(known, key=lambda each: each.replaced / each.all)
    if most.replaced / most.all >= LITTLE:
        return ""
    line = f"little to gain: about {most.replaced / most.all:.0%} of a forward's work is in calls that are replaced"
    if most.products:
        line += f"; {most.stay / most.products:.0%} of the multiply-adds are in convolutions that stay as they are"
    return line


def _products(call: Call, out: Tensor) -> int:
    name = call.name
    if not (name.startswith("conv") or name in ("linear", "matmul", "addmm", "baddbmm")):
        return 0
    tensors = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)]
    if name in ("addmm", "baddbmm"):
        tensors = tensors[1:]
    if len(tensors) < 2 or not out.numel():
        return 0
    x, weight = tensors[:2]
    if name.startswith("conv_transpose"):
        return x.numel() * weight[0].numel()
    return out.numel() * (weight[0].numel() if name.startswith("conv") or name == "linear" else x.shape[-1])
