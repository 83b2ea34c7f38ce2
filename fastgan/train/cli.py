"""`fastgan train`: the command line of the training loop."""

from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace
from dataclasses import fields
from logging import INFO, Formatter, StreamHandler
from pathlib import Path
from signal import SIGINT
from typing import Any

from fastgan.bench.train_comparison import compare
from fastgan.train.checkpoint import load_record
from fastgan.train.config import PRESETS, Config, value_type
from fastgan.train.data import LOGGER
from fastgan.train.loop import train
from fastgan.train.signals import Stopped
from fastgan.train.terminal import Stderr, mistake, say


def add_arguments(parser: ArgumentParser) -> None:
    """Add one flag per setting of `Config`, and those that choose where settings come from."""
    parser.add_argument("--preset", choices=sorted(PRESETS), help="settings tuned together; flags override them")
    parser.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="continue; its settings hold unless a flag is given"
    )
    parser.add_argument("--compare", action="store_true", help="afterwards, time the step against plain PyTorch's")
    for spec in fields(Config):
        value: dict[str, Any] = {"type": value_type(spec), "choices": spec.metadata.get("choices")}
        if value_type(spec) is bool:  # a resumed run may take it back with --no-...
            value = {"action": BooleanOptionalAction}
        told = f"{spec.metadata['help']} (default: {spec.default})"
        parser.add_argument("--" + spec.name.replace("_", "-"), default=SUPPRESS, help=told, **value)


def run(args: Namespace) -> int:
    """Train as the parsed arguments say.

    Returns the exit status: 0; 1 after an error, of which one line goes to stderr; 128 + n after signal n.
    """
    told = StreamHandler(Stderr())
    told.setFormatter(Formatter("fastgan train: %(message)s"))
    level = LOGGER.level
    LOGGER.addHandler(told)
    LOGGER.setLevel(INFO)
    try:
        config = _config(args)
        samples = train(config, args.resume)
        if args.compare:
            say(compare(config))
        say(f"samples: {samples}")
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


def _config(args: Namespace) -> Config:
    """Defaults, or the checkpoint's settings; then the preset's; then the flags that were given."""
    flags = {spec.name: getattr(args, spec.name) for spec in fields(Config) if hasattr(args, spec.name)}
    settings = {**PRESETS.get(args.preset, {}), **flags}
    if args.resume is None:
        return Config.from_json(settings)
    before = load_record(args.resume).get("config")
    try:
        return Config.from_json({**Config.from_json(before).to_json(), "out": _folder_of(args.resume), **settings})
    except ValueError as error:
        raise ValueError(f"{args.resume}: {error}") from error


def _folder_of(checkpoint: Path) -> str:
    """Where a run goes on without --out: in its own folder. What a checkpoint's file says of that is not asked."""
    return str(checkpoint.parent)
