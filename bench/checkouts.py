"""Modules of a checkout, imported for one use: several codebases have modules of the same name."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from unittest import mock

from torch.utils import cpp_extension

Contents = Mapping[str, Any]


@contextmanager
def importable(
    folder: Path, packages: Mapping[str, Contents] = {}, absent: Mapping[str, Contents] = {}
) -> Iterator[dict[str, ModuleType]]:
    """A context in which `import` finds a checkout's modules before all others; nothing is compiled.

    After it they are forgotten, and modules that had their names before are there again. The context gives a dict that
    it fills at its end with the modules that were imported; put into `sys.modules` they can be used again.

    Args:
        folder: the checkout.
        packages: packages of it whose own `__init__` is passed over, since it imports all there is, and what is in them
            instead.
        absent: third-party modules that may be missing, and what of them is used after all.
    """
    absent = {name: contents for name, contents in absent.items() if find_spec(name.partition(".")[0]) is None}
    roots = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    roots |= {name.partition(".")[0] for name in absent}
    imported: dict[str, ModuleType] = {}
    before = _take(roots)
    for name, contents in packages.items():
        sys.modules[name] = package = ModuleType(name)
        vars(package).update(contents, __path__=[str(folder.joinpath(*name.split(".")))])
    for name, contents in absent.items():
        sys.modules[name] = module = _Absent(name)
        vars(module).update(contents)
    sys.path.insert(0, str(folder))
    try:
        with mock.patch.object(cpp_extension, "load", return_value=None):
            yield imported
    finally:
        sys.path.remove(str(folder))
        imported.update(_take(roots))
        sys.modules.update(before)


def _take(roots: set[str]) -> dict[str, ModuleType]:
    """The modules inside these, which are in `sys.modules` no longer."""
    names = [name for name in sys.modules if name.partition(".")[0] in roots]
    return {name: sys.modules.pop(name) for name in names}


class _Absent(ModuleType):
    """A module that is not installed: whatever is taken from it cannot be called."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> NoReturn:
            raise ModuleNotFoundError(f"{self.__name__}.{name}: {self.__name__} is not installed")

        return missing
