"""Plugins that codebases compile with `torch.utils.cpp_extension` when they are imported: not before they are used."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType
from typing import Any

import torch
from torch.utils import cpp_extension

# By the global name that a codebase gives to a plugin: its functions, as ours compute them.
Entries = Mapping[str, Mapping[str, Callable[..., Any]]]
_LOADERS = ("load", "load_inline")


class RefusedError(Exception):
    """Something was to be compiled, or taken from a plugin, where neither is possible."""


class Plugin:
    """A plugin that is compiled at the first use of one of its functions."""

    def __init__(self, compile: Callable[[], Any]):  # noqa: A002  what it is
        self._compile = compile

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if "_compiled" not in vars(self):
            if _refusing:
                _refuse()
            self._compiled = self._compile()
        return getattr(self._compiled, name)


@contextmanager
def deferred(module: ModuleType) -> Iterator[None]:
    """A context in which a module runs its code: the plugins that it loads are compiled when they are used."""
    loaders = {name: getattr(cpp_extension, name) for name in _LOADERS}
    with _held(vars(cpp_extension), {n: f if isinstance(f, _Later) else _Later(f) for n, f in loaders.items()}):
        yield
    for name, value in list(vars(module).items()):
        if isinstance(value, _Later):
            setattr(module, name, value.load)


class _Later:
    """`load` or `load_inline` that gives a `Plugin`."""

    def __init__(self, load: Callable[..., Any]):
        wraps(load)(self)
        self.load = load

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("is_python_module", True):
            return self.load(*args, **kwargs)  # what it registers with torch is asked for by other names
        return Plugin(lambda: self.load(*args, **kwargs))


_refusing: list[list[Any]] = []  # what loads plugins, for every context that refuses it


def _refuse(*_: Any, **__: Any) -> Any:
    raise RefusedError("it compiles a plugin")


@contextmanager
def refused() -> Iterator[None]:
    """A context in which nothing is compiled: an attempt raises RefusedError."""
    loaders = [getattr(cpp_extension, name) for name in _LOADERS]
    _refusing.append([load.load if isinstance(load, _Later) else load for load in loaders])
    try:
        with _held(vars(cpp_extension), dict.fromkeys(_LOADERS, _refuse)):
            yield
    finally:
        _refusing.pop()


@contextmanager
def emulated(function: Callable[..., Any], entries: Entries) -> Iterator[None]:
    """A context in which the module of a function has ours for its plugins; pure Python of these names stays."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    names = {} if module is None else vars(module)
    plugins = {name: _Emulated(functions) for name, functions in entries.items() if _is_plugin(names.get(name))}
    loaders = [name for name, value in names.items() if any(value is load for held in _refusing for load in held)]
    with _held(names, plugins | dict.fromkeys(loaders, _refuse)):
        yield


@contextmanager
def _held(names: dict[str, Any], values: Mapping[str, Any]) -> Iterator[None]:
    """A context in which a module's names have other values."""
    before = {name: names[name] for name in values if name in names}
    names.update(values)
    try:
        yield
    finally:
        for name in values:
            del names[name]
        names.update(before)


class _Emulated:
    """A plugin whose functions are ours."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]):
        vars(self).update({name: untouched(function) for name, function in functions.items()})

    def __getattr__(self, name: str) -> Any:
        raise RefusedError(f"it calls a plugin's {name!r}, which is not known")


def untouched(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function out of reach of the modes in which it is called, as a plugin's is."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return call


def _is_plugin(value: Any) -> bool:
    file = getattr(value, "__file__", None) or ""
    return value is None or isinstance(value, Plugin) or file.endswith(tuple(EXTENSION_SUFFIXES))
