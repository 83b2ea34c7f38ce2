"""`fastgan.patch`: functions of a codebase replaced by ours, in modules imported already and in those still to come.

A family says which functions of which modules ours take the place of; a method, "Class.method", is one too. A module
that is there already gets them at once, and so does every other module that holds the same function under a name of its
own; a module that is imported later gets them behind its own code, by a hook on imports. A *stand-in* is a whole
module: it is imported instead of the codebase's, which would start a compiler, or where there is none.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from fastgan import check

# The modules with a FAMILY, and the names by which people know the codebases.
FAMILIES = {
    "stylegan": ("stylegan2-ada", "stylegan3", "r3gan", "stylegan-t", "stylegan-xl", "projected-gan", "eg3d"),
    "rosinality": ("psp", "e4e", "sam"),
    "basicsr": ("real-esrgan", "gfpgan"),
    "biggan": ("biggan-pytorch", "unetgan", "diffaugment-biggan-cifar", "ic-gan"),
    "torch": (),
}


class MadeFrom(NamedTuple):
    """Ours, made from the module or class that has the function, and the function; or `UnlikeError`."""

    make: Callable[[Any, Any], Any]


class UnlikeError(Exception):
    """What a codebase has under a name is not the function that ours could replace."""


class Family(NamedTuple):
    """What ours take over in codebases of one origin."""

    summary: str
    functions: Mapping[str, Mapping[str, Any]]  # by module, by name; each ours or a MadeFrom
    stand_ins: Mapping[str, Mapping[str, Any]] = {}  # what a module consists of
    optional: Sequence[str] = ()  # stand-ins that give way to a module of the codebase
    left: Mapping[str, str] = {}  # what stays as it is, and why


class Row(NamedTuple):
    """A line of a report: a function or module of the codebase, what became of it, and why it stays if it does."""

    name: str
    status: str
    reason: str = ""


class PatchReport(NamedTuple):
    """What `patch` did, line by line; `print` shows a table."""

    family: str
    rows: list[Row]

    def __str__(self) -> str:
        """A table."""
        width = max(len(row.name) for row in self.rows)
        lines = [f"{row.name:{width}}  {row.status}{': ' * bool(row.reason)}{row.reason}" for row in self.rows]
        return "\n".join([f"fastgan.patch({self.family!r})", *lines])

    def to_dict(self) -> dict[str, Any]:
        """The same for machines."""
        return {"family": self.family, "rows": [row._asdict() for row in self.rows]}


def patch(name: str) -> PatchReport:
    """Let a codebase run on fastgan's ops, before or after it is imported.

    Args:
        name: "stylegan", "rosinality", "basicsr", "biggan" or "torch"; the names of codebases of such a family are
            accepted too, see `fastgan patch --list`.

    Returns:
        A report with a row for every function: replaced in an imported module, to be replaced when its module is
        imported, or left as it is and why. Patching twice changes nothing more.

    Raises:
        ValueError: another name.
    """
    name = family_of(name)
    family = load(name)
    if name not in _patched:
        _patched[name] = _Patch(family)
    return PatchReport(name, _patched[name].rows())


def unpatch(name: str) -> None:
    """Undo `patch`: every replaced function is what it was, and stand-ins are gone from `sys.modules`.

    Args:
        name: as for `patch`.

    Raises:
        ValueError: another name, or a family that is not patched.
    """
    name = family_of(name)
    if name not in _patched:
        raise ValueError(f"name must be a family that is patched ({', '.join(_patched) or 'none is'}), got {name!r}")
    _patched.pop(name).undo()


def family_of(name: str) -> str:
    """The family's name for it or one of its aliases, in any case."""
    known = {alias: family for family, aliases in FAMILIES.items() for alias in (family, *aliases)}
    check.choice(name.lower() if isinstance(name, str) else name, "name", known)
    return known[name.lower()]


def load(name: str) -> Family:
    """What a family takes over; imported when it is asked for."""
    return import_module(f"fastgan.compat.families.{name}").FAMILY


class _Patch:
    """A family in force."""

    def __init__(self, family: Family):
        self.family = family
        self.originals: dict[tuple[ModuleType | type, str], Any] = {}
        self.outcomes: dict[str, tuple[str, str]] = {}
        self.standing: dict[str, ModuleType] = {}
        self.before = frozenset(sys.modules)
        sys.meta_path.insert(0, finder := _Finder(self))
        self.finder = finder
        for module in family.functions:
            if module in sys.modules:
                self.replace(sys.modules[module])

    def replace(self, module: ModuleType) -> None:
        """Put ours into a module, and wherever else the functions that they replace are held."""
        for name, ours in self.family.functions.get(module.__name__, {}).items():
            owner_name, _, attribute = name.rpartition(".")
            owner = getattr(module, owner_name, None) if owner_name else module
            theirs = getattr(owner, attribute, None)
            if theirs is None or theirs is ours:
                continue
            if isinstance(ours, MadeFrom):
                try:
                    ours = ours.make(owner, theirs)
                except UnlikeError as reason:
                    self.outcomes[f"{module.__name__}.{name}"] = ("left", str(reason))
                    continue
            # What the codebase only took from elsewhere, torch say, is replaced in this module alone.
            own = owner is module and (getattr(theirs, "__module__", None) or "").partition(".")[0] == _root(module)
            for holder, held in list(_holders(theirs)) if own else [(owner, attribute)]:
                self.originals[holder, held] = theirs
                setattr(holder, held, ours)
            self.outcomes[f"{module.__name__}.{name}"] = ("replaced", "")

    def rows(self) -> list[Row]:
        rows = [
            Row(name, "stands in" if name in self.standing else "stands in when imported") for name in self.stand_ins()
        ]
        for module, functions in self.family.functions.items():
            for name in functions:
                path = f"{module}.{name}"
                if module in sys.modules:
                    missing = ("not there", "this version has no such function")
                    rows.append(Row(path, *self.outcomes.get(path, missing)))
                else:
                    rows.append(Row(path, "replaced when imported"))
        return rows + [Row(name, "left", reason) for name, reason in self.family.left.items()]

    def stand_ins(self) -> list[str]:
        """Those that are needed: an optional one gives way to a module that is there."""
        there = set(sys.modules) - set(self.standing)
        return [name for name in self.family.stand_ins if name not in there]

    def undo(self) -> None:
        sys.meta_path.remove(self.finder)
        for (holder, name), theirs in self.originals.items():
            ours = getattr(holder, name)
            setattr(holder, name, theirs)
            if getattr(holder, "__name__", None) not in self.family.functions:
                continue
            # Modules of the codebase that were imported since took ours; others may have it from us.
            for other, held in list(_holders(ours)):
                if other.__name__ not in self.before and _root(other) == _root(holder):
                    setattr(other, held, theirs)
        for name, module in self.standing.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


_patched: dict[str, _Patch] = {}


def _root(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _holders(function: Any) -> Iterator[tuple[ModuleType, str]]:
    """Modules that hold a function, and by which names."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            yield from ((module, name) for name, value in list(vars(module).items()) if value is function)


# --- imports ---


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the family's modules, so that ours go into them when their code has run."""

    def __init__(self, patch: _Patch):
        self.patch = patch

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        family = self.patch.family
        stands_in = name in family.stand_ins
        if stands_in and name not in family.optional:
            return self.stand_in(name)
        if not stands_in and name not in family.functions:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is None:
            return self.stand_in(name) if stands_in else None
        if spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.patch.replace)
        return spec

    def stand_in(self, name: str) -> importlib.machinery.ModuleSpec:
        is_package = any(other.startswith(f"{name}.") for other in self.patch.family.stand_ins)
        return importlib.machinery.ModuleSpec(name, _StandIn(self.patch), is_package=is_package)


class _Loader(importlib.abc.Loader):
    """Another loader, and what is done with a module when its code has run."""

    def __init__(self, loader: Any, finish: Callable[[ModuleType], None]):
        self.loader, self.finish = loader, finish

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.finish(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # get_source and the like


class _StandIn(importlib.abc.Loader):
    """Makes a module of functions that are ours."""

    def __init__(self, patch: _Patch):
        self.patch = patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """A plain module."""

    def exec_module(self, module: ModuleType) -> None:
        self.patch.standing[module.__name__] = module
        # First what is inside: a function may have the name of a module in its package.
        for name in self.patch.family.stand_ins:
            if name.rpartition(".")[0] == module.__name__:
                import_module(name)
        vars(module).update(self.patch.family.stand_ins[module.__name__])
