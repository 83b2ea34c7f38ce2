"""`fastgan.patch`: functions of a codebase replaced by ours, in modules imported already and in those still to come.

A family says which functions of which modules ours can take the place of; a method, "Class.method", is one too. Ours
takes it where it is seen to compute the same, see `comparison`. A module that is there already gets ours at once, and
so does every other module that holds the same function under a name of its own; a module that is imported later gets
them after its own code has run. A *stand-in* is a whole module, for where there is none.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from fastgan import check
from fastgan.compat.comparison import Choice, MismatchError, Ours, choose
from fastgan.compat.imports import Finder, StandIns

# The modules with a FAMILY, and the names by which people know the codebases.
FAMILIES = {
    "stylegan": (
        "stylegan2-ada",
        "stylegan3",
        "r3gan",
        "stylegan-t",
        "stylegan-xl",
        "projected-gan",
        "eg3d",
        "stylenerf",
    ),
    "rosinality": ("psp", "e4e", "sam", "restyle", "styleclip", "stylegan-nada"),
    "basicsr": ("real-esrgan", "gfpgan"),
    "biggan": ("biggan-pytorch", "unetgan", "diffaugment-biggan-cifar", "ic-gan"),
    "torch": (),
}


class MadeFrom(NamedTuple):
    """Ours, made from the module or class that has the function, and the function; or `MismatchError`."""

    make: Callable[[Any, Any], Any]


class Family(NamedTuple):
    """What ours take over in codebases of one origin."""

    summary: str
    functions: Mapping[str, Mapping[str, Ours | MadeFrom]]  # by module, by name
    stand_ins: Mapping[str, Mapping[str, Any]] = {}  # what a module consists of that a codebase does not have
    plugins: Mapping[str, Mapping[str, Callable[..., Any]]] = {}  # see `plugins.Entries`
    left: Mapping[str, str] = {}  # what stays as it is, and why


class Row(NamedTuple):
    """A line of a report: a function or module of the codebase, what became of it, and how that was decided."""

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

    A function is replaced only where ours was seen to mean the same: both are called with small tensors on the CPU, and
    their results and derivatives compared. A call with an argument that ours does not know goes to the codebase's
    function, unless the argument has its default. Nothing is compiled: a plugin that the codebase loads when it is
    imported is built when something that was not replaced uses it. What a codebase's function prints or writes while it
    is compared is not undone.

    Args:
        name: "stylegan", "rosinality", "basicsr", "biggan" or "torch"; the names of codebases of such a family are
            accepted too, see `fastgan patch --list`.

    Returns:
        A report with a row for every function: "replaced" and how it was compared; "waiting for import"; "left" and
        why; or "not there", where a module has no such function. Patching twice changes nothing more.

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
        raise ValueError(
            f"name must be a family that is patched ({', '.join(_patched) or 'none is'}), got {check.short(name)}"
        )
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
        self.originals: dict[tuple[ModuleType | type, str], tuple[Any, Any]] = {}  # theirs and ours
        self.outcomes: dict[str, tuple[str, str]] = {}
        self.replaced: list[tuple[Any, tuple[str, str]]] = []  # ours, and what a report says of it
        self.stand_ins = StandIns(family.stand_ins, self.replace)
        self.finder = Finder(family.functions, self.stand_ins, self.replace)
        sys.meta_path.insert(0, self.finder)
        try:
            for module in family.functions:
                if isinstance(sys.modules.get(module), ModuleType):
                    self.replace(sys.modules[module])
        except BaseException:
            self.undo()
            raise

    def replace(self, module: ModuleType) -> None:
        """Put ours into a module, and wherever else the functions that they replace are held."""
        for name, ours in self.family.functions.get(module.__name__, {}).items():
            owner_name, _, attribute = name.rpartition(".")
            owner = getattr(module, owner_name, None) if owner_name else module
            theirs = getattr(owner, attribute, None)
            if theirs is None or (owner_name and attribute not in vars(owner)):
                continue
            path = f"{module.__name__}.{name}"
            # A package has it from a module of its own, where it was replaced.
            if known := next((outcome for value, outcome in self.replaced if value is theirs), None):
                self.outcomes[path] = known
                continue
            try:
                choice = self.choose(owner, theirs, ours)
            except MismatchError as reason:
                self.outcomes[path] = ("left", str(reason))
                continue
            put = _in_the_place_of(theirs, choice.function)
            # What the codebase only took from elsewhere, torch say, is replaced in this module alone.
            own = owner is module and (getattr(theirs, "__module__", None) or "").partition(".")[0] == _root(module)
            for holder, held in list(_holders(theirs)) if own else [(owner, attribute)]:
                self.originals[holder, held] = theirs, put
                setattr(holder, held, put)
            self.outcomes[path] = ("replaced", choice.reason)
            self.replaced.append((put, self.outcomes[path]))

    def choose(self, owner: Any, theirs: Any, ours: Ours | MadeFrom) -> Choice:
        if isinstance(ours, MadeFrom):
            return Choice(ours.make(owner, theirs), "compared by a call")
        return choose(owner, theirs, ours, self.family.plugins)

    def rows(self) -> list[Row]:
        standing = self.stand_ins.standing
        rows = [
            Row(name, "stands in" if name in standing else "stands in where it is not found")
            for name in self.family.stand_ins
            if name in standing or name not in sys.modules
        ]
        for module, functions in self.family.functions.items():
            for name in functions:
                path = f"{module}.{name}"
                if module in standing:
                    rows.append(Row(path, "stands in"))
                elif module in sys.modules:
                    missing = ("not there", "this version has no such function")
                    rows.append(Row(path, *self.outcomes.get(path, missing)))
                else:
                    rows.append(Row(path, "waiting for import"))
        return rows + [Row(name, "left", reason) for name, reason in self.family.left.items()]

    def undo(self) -> None:
        """Put everything back that is still as it was left."""
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        for (holder, name), (theirs, ours) in self.originals.items():
            if vars(holder).get(name) is ours:
                setattr(holder, name, theirs)
            # Modules that were imported since took ours from the codebase.
            for other, held in list(_holders(ours)):
                setattr(other, held, theirs)
        self.stand_ins.remove()


_patched: dict[str, _Patch] = {}


def _in_the_place_of(theirs: Any, ours: Any) -> Any:
    """A function that calls ours and has the names of theirs, by which it is pickled and shown."""

    @wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    # Code of its own: torch.compile counts how often it has compiled the same code, and gives up.
    call.__code__ = call.__code__.replace(co_name=theirs.__name__)
    return call


def _root(module: ModuleType) -> str:
    return module.__name__.partition(".")[0]


def _holders(function: Any) -> Iterator[tuple[ModuleType, str]]:
    """Modules that hold a function, and by which names."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            yield from ((module, name) for name, value in list(vars(module).items()) if value is function)
