"""What an entry of the zoo is, and the parts that its critics share."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from samples import seeded
from torch import Tensor, nn

CLASSES = 5
IMAGE = (3, 16, 16)


class Entry(NamedTuple):
    """A critic, what it takes, and which engine has to serve it.

    piecewise_linear: True for the linearized engine, False for double backward, None where either is right.
    plain: False where even plain torch refuses the second derivative.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    args: Callable[[int], tuple]
    piecewise_linear: bool | None
    plain: bool = True

    def critic(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        """A critic with the weights of this seed: build it twice rather than copy it, hooks cannot be copied."""
        torch.manual_seed(seed)
        return self.build().to(dtype)

    def images(self, n: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        """[n, *shape] in [-1, 1]: noise with a black background (-1) and a grey stripe (0), both exact."""
        x = torch.rand(n, *self.shape, dtype=dtype, generator=seeded(seed)) * 2 - 1
        side = self.shape[-1]
        x[..., : side // 4] = -1
        x[..., side // 2] = 0
        return x


ZOO: dict[str, Entry] = {}


def entry(
    name: str,
    *,
    shape: tuple[int, ...] = IMAGE,
    args: Callable[[int], tuple] = lambda n: (),
    piecewise_linear: bool | None = True,
    plain: bool = True,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Put what builds a critic into the zoo."""

    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in ZOO, name
        ZOO[name] = Entry(name, build, shape, args, piecewise_linear, plain)
        return build

    return add


def labels(n: int) -> tuple[Tensor]:
    """One class per sample."""
    return (torch.arange(n) * 3 % CLASSES,)


class Call(nn.Module):
    """A critic in one line: submodules by name, and a function of them and the input."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2)


def stem_and_head(**modules: nn.Module) -> dict[str, nn.Module]:
    """What the one-line critics share: an image to [N, 6, 8, 8], and that to a logit."""
    return {"stem": conv(3, 6, stride=2), "head": nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 1)), **modules}


def with_middle(
    name: str,
    middle: Callable[[nn.Module, Tensor], Tensor],
    *,
    piecewise_linear: bool | None = False,
    plain: bool = True,
    **modules: Callable[[], nn.Module],
) -> None:
    """Add the critic head(relu(stem)) with something in its middle, [N, 6, 8, 8] -> [N, 6, 8, 8]."""

    def build():
        def forward(self, x):
            return self.head(middle(self, F.relu(self.stem(x))))

        return Call(forward, **stem_and_head(**{key: module() for key, module in modules.items()}))

    entry(name, piecewise_linear=piecewise_linear, plain=plain)(build)


class Parameters(nn.Module):
    """Parameters by name."""

    def __init__(self, **values: Tensor):
        super().__init__()
        for name, value in values.items():
            setattr(self, name, nn.Parameter(value))


class ZeroGain(nn.Module):
    """A learned gain that starts at zero: what comes after it cannot be seen in the first step's values."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))
