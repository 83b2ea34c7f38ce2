"""Imports of a codebase's modules: what happens to them when their code has run, and modules that stand in for them."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import wraps
from importlib import import_module
from inspect import isclass, isfunction
from types import ModuleType
from typing import Any

from fastgan.compat.plugins import deferred

Finish = Callable[[ModuleType], None]


class Finder(importlib.abc.MetaPathFinder):
    """Finds a family's modules, whose plugins wait, and finishes them when their code has run."""

    def __init__(self, names: Collection[str], stand_ins: "StandIns", finish: Finish):
        self.names, self.stand_ins, self.finish = names, stand_ins, finish

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Of the family's modules alone."""
        self.stand_ins.give_way(self, name)
        if name not in self.names and name not in self.stand_ins.contents:
            return None
        spec = self.others(name, path, target)
        if spec is None:
            return self.stand_ins.spec(name)
        if spec.loader is not None and name in self.names:
            spec.loader = _Loader(spec.loader, self.finish)
        return spec

    def others(self, name: str, path: Any, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        """What the finders after this one find."""
        found = (f.find_spec(name, path, target) for f in list(sys.meta_path) if not isinstance(f, Finder))
        return next((spec for spec in found if spec is not None), None)


class _Loader(importlib.abc.Loader):
    """Another loader, and what is done with a module when its code has run."""

    def __init__(self, loader: Any, finish: Finish):
        self.loader, self.finish = loader, finish

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with deferred(module):
            self.loader.exec_module(module)
        self.finish(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # get_source and the like


class StandIns(importlib.abc.Loader):
    """Modules of functions that are ours, where there is no codebase; they become the codebase's when one is there."""

    def __init__(self, contents: Mapping[str, Mapping[str, Any]], finish: Finish):
        self.contents, self.finish = contents, finish
        self.standing: dict[str, ModuleType] = {}
        self.owned: dict[int, Any] = {}  # what was made of ours for these modules, by ours
        self.roots = {name.partition(".")[0] for name in contents}
        self.path: list[str] = []  # that of the last look for a codebase
        self.gives_way = False

    def spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        """Of a module that stands in."""
        if name not in self.contents:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=self.is_package(name))

    def is_package(self, name: str) -> bool:
        """Whether there are modules in it."""
        return any(other.startswith(f"{name}.") for other in self.contents)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """A plain module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill it."""
        name = module.__name__
        self.standing[name] = module
        if self.is_package(name):
            module.__path__ = _Path(name)  # modules that are not ours may be found on the path later
        # First what is inside: a function may have the name of a module in its package, and belongs to that.
        for other in self.contents if self.contents[name] else ():
            if other.rpartition(".")[0] == name:
                import_module(other)
        vars(module).update({key: self._made(name, value) for key, value in self.contents[name].items()})

    def _made(self, module: str, ours: Any) -> Any:
        """Ours, with this module as its own: by that name pickles find it, here or in the codebase."""
        if not (isfunction(ours) or isclass(ours)):
            return ours
        key = id(ours)
        made = self.owned.get(key)
        if made is None or made.__module__.partition(".")[0] != module.partition(".")[0]:
            made = self.owned[key] = _belonging(module, ours)
        return made

    def give_way(self, finder: Finder, imported: str) -> None:
        """Modules that can be found by now take the place of those that stand in: the same objects, with their code."""
        if self.gives_way or not self.standing:
            return
        if imported.partition(".")[0] not in self.roots and sys.path == self.path:
            return
        self.path = list(sys.path)
        self.gives_way = True
        try:
            for name in sorted(self.standing):
                parent = sys.modules.get(name.rpartition(".")[0])
                path = list(parent.__path__) if "." in name and parent is not None else None
                spec = finder.others(name, path)
                if spec is not None and spec.loader is not None:
                    self._become(self.standing[name], spec)
        finally:
            self.gives_way = False

    def _become(self, module: ModuleType, spec: importlib.machinery.ModuleSpec) -> None:
        for key in self.contents[module.__name__]:
            vars(module).pop(key, None)
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        del self.standing[module.__name__]
        try:
            _Loader(spec.loader, self.finish).exec_module(module)
        except BaseException:
            sys.modules.pop(module.__name__, None)  # as an import that fails
            raise

    def remove(self) -> None:
        """Forget those that still stand in."""
        for name, module in self.standing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
            parent, _, attribute = name.rpartition(".")
            if parent in sys.modules and vars(sys.modules[parent]).get(attribute) is module:
                delattr(sys.modules[parent], attribute)
        self.standing.clear()


class _Path:
    """Where the modules of a package that stands in may be: beside it, in every folder of its parent's path."""

    def __init__(self, name: str):
        self.name = name

    def __iter__(self) -> Iterator[str]:
        parent, _, last = self.name.rpartition(".")
        return iter([f"{folder or '.'}/{last}" for folder in (sys.modules[parent].__path__ if parent else sys.path)])


def _belonging(module: str, ours: Any) -> Any:
    if isclass(ours):
        return type(ours.__name__, (ours,), {"__module__": module, "__doc__": ours.__doc__})

    @wraps(ours)
    def call(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    call.__code__ = call.__code__.replace(co_name=ours.__name__)
    call.__module__, call.__qualname__ = module, ours.__name__
    return call
