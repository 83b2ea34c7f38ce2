"""`fastgan train RECIPE`: the command line of the training loop."""

from argparse import (
    REMAINDER,
    SUPPRESS,
    Action,
    ArgumentParser,
    BooleanOptionalAction,
    Namespace,
    RawDescriptionHelpFormatter,
)
from dataclasses import fields
from logging import INFO, Formatter, StreamHandler
from pathlib import Path
from shlex import quote
from signal import SIGINT
from typing import Any

from fastgan.bench.train_comparison import compare
from fastgan.train.checkpoint import load_record
from fastgan.train.config import Config, value_type
from fastgan.train.data import LOGGER
from fastgan.train.loop import train
from fastgan.train.recipe import Recipe, description, find, name_of, names
from fastgan.train.signals import Stopped
from fastgan.train.terminal import Stderr, mistake, say


def add_arguments(parser: ArgumentParser) -> None:
    """Add the recipe, and what its own parser reads: a recipe has options of its own."""
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = f"recipes:\n{_listed()}\n\n`fastgan train RECIPE --help` shows the options of one."
    parser.add_argument("--list", action=_List, nargs=0, help="print what each recipe is for, and nothing else")
    parser.add_argument("recipe", metavar="RECIPE", help="a name from below, or a Python file of your own")
    parser.add_argument("options", nargs=REMAINDER, metavar="...", help="the recipe's options")


class _List(Action):
    """Like --help: whatever else is there, print and end."""

    def __call__(self, parser: ArgumentParser, *_: Any) -> None:
        say(_listed())
        parser.exit()


def _listed() -> str:
    return "\n".join(f"  {name:12}{description(find(name))}" for name in names())


def _parsed(args: Namespace, recipe: type[Recipe]) -> Namespace:
    parser = ArgumentParser(prog=f"fastgan train {args.recipe}", description=description(recipe))
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings from a TOML file; flags override them")
    parser.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="continue; its settings hold unless a flag is given"
    )
    parser.add_argument("--compare", action="store_true", help="afterwards, time the step against plain PyTorch's")
    for spec in fields(recipe.Settings):
        value: dict[str, Any] = {"type": value_type(spec), "choices": spec.metadata.get("choices")}
        if value_type(spec) is bool:  # a resumed run may take it back with --no-...
            value = {"action": BooleanOptionalAction}
        told = f"{spec.metadata['help']} (default: {spec.default})".replace("%", "%%")
        parser.add_argument("--" + spec.name.replace("_", "-"), default=SUPPRESS, help=told, **value)
    return parser.parse_args(args.options)


def run(args: Namespace) -> int:
    """Train as the parsed arguments say.

    Returns the exit status: 0; 1 after an error, of which one line goes to stderr; 128 + n after signal n.
    """
    told = StreamHandler(Stderr())
    told.setFormatter(Formatter("fastgan train: %(message)s"))
    LOGGER.addHandler(told)
    level = LOGGER.level
    LOGGER.setLevel(INFO)
    try:
        kind = find(args.recipe)
        options = _parsed(args, kind)
        recipe = kind(_settings(options, kind))
        samples = train(recipe, options.resume)
        if options.compare:
            say(compare(recipe))
        say(f"samples: {samples}")
        say(f"next: {_next(name_of(kind), quote(recipe.settings.out))}")
    except Stopped as stopped:
        LOGGER.warning("%s", stopped)
        return 128 + stopped.number
    except KeyboardInterrupt:
        LOGGER.warning("stopped by SIGINT at once")
        return 128 + SIGINT
    except Exception as error:
        LOGGER.error("error: %s", mistake(error))
        return 1
    finally:
        LOGGER.removeHandler(told)
        LOGGER.setLevel(level)
    return 0


def _next(recipe: str, out: str) -> str:
    """What can be done with a run; the commands that make its generator find fastgan's own recipes alone."""
    report = f"fastgan report {out}"
    return f"{report}; fastgan sample {out} --out FOLDER" if recipe in names() else report


def _settings(args: Namespace, recipe: type[Recipe]) -> Config:
    """Defaults, or the checkpoint's settings; then the file's; then the flags that were given."""
    kind = recipe.Settings
    flags = {spec.name: getattr(args, spec.name) for spec in fields(kind) if hasattr(args, spec.name)}
    settings = {**_from_file(args.config), **flags}
    if args.resume is None:
        return kind.from_json(settings)
    before = load_record(args.resume)
    if before.get("recipe") != (name := name_of(recipe)):
        raise ValueError(f"{args.resume}: recipe is {before.get('recipe')!r}: {name!r} does not continue it")
    try:
        return kind.from_json(
            {**kind.from_json(before.get("config")).to_json(), "out": _folder_of(args.resume), **settings}
        )
    except ValueError as error:
        raise ValueError(f"{args.resume}: {error}") from error


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        import tomllib
    except ModuleNotFoundError as error:
        raise ValueError(f"--config {path}: reading TOML needs Python 3.11") from error
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from error


def _folder_of(checkpoint: Path) -> str:
    """Where a run goes on without --out: in its own folder. What a checkpoint's file says of that is not asked."""
    return str(checkpoint.parent)
