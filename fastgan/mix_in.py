"""Methods that one module has before those of its class, where a hook would not do.

`torch.cuda.make_graphed_callables` refuses modules with hooks, and after an interrupt torch calls no hook. A method put
into the attributes of a module would stay bound to it in shallow copies and in replicas of nn.DataParallel. So the
module gets a class of its own, as from torch's parametrizations and FSDP: it has the name of the module's class, and is
derived from it.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils import parametrize


class MixIn:
    """Base of what is mixed in. Its methods find their state in the module, and may find none: then they pass on."""

    def __reduce_ex__(self, protocol: int) -> tuple:
        """A class of one module has no name that pickle could find: the copy gets its own."""
        build, arguments, *rest = super().__reduce_ex__(protocol)
        own = [cls for cls in type(self).__mro__ if "_mixed_in" in vars(cls)]
        original = own[-1].__bases__[-1]
        arguments = tuple(original if argument is type(self) else argument for argument in arguments)
        return _built, (build, arguments, [cls._mixed_in for cls in reversed(own)]), *rest


def _built(build: Callable, arguments: tuple, mixed_in: list[type[MixIn]]) -> Any:
    module = build(*arguments)
    for each in mixed_in:
        mix_in(module, each)
    return module


def mix_in(module: nn.Module, methods: type[MixIn]) -> None:
    """Let a module have these methods, if it has them not.

    Args:
        module: any.
        methods: a class that pickle finds by its name.
    """
    cls = type(module)
    if issubclass(cls, methods):
        return
    # torch takes a parametrization back from the class on top, which must be its own.
    below = cls.__bases__[0] if parametrize.is_parametrized(module) else cls
    names = {name: getattr(below, name) for name in ("__module__", "__qualname__", "__doc__")}
    # In two steps: to be derived from may be something that a class counts, or wants arguments for.
    own = type(below.__name__, (methods, nn.Module), names | {"_mixed_in": methods})
    own.__bases__ = (methods, below)
    if below is cls:
        module.__class__ = own
    else:
        cls.__bases__ = (own,)


def take_out(module: nn.Module, methods: type[MixIn]) -> None:
    """Undo `mix_in`, if it was done, whatever has been put on top."""
    classes = type(module).__mro__
    own = next((cls for cls in classes if vars(cls).get("_mixed_in") is methods), None)
    if own is None:
        return
    if own is type(module):
        module.__class__ = own.__bases__[-1]
        return
    above = next(cls for cls in classes if own in cls.__bases__)
    above.__bases__ = tuple(own.__bases__[-1] if base is own else base for base in above.__bases__)
