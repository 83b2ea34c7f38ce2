"""`fastgan train`: the command line of the training loop."""

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import fields
from pathlib import Path

from fastgan.bench.train_comparison import compare
from fastgan.train.checkpoint import load
from fastgan.train.config import PRESETS, Config, value_type
from fastgan.train.loop import train


def add_arguments(parser: ArgumentParser) -> None:
    """Add one flag per setting of `Config`, and those that choose where settings come from."""
    parser.add_argument("--preset", choices=sorted(PRESETS), help="settings tuned together; flags override them")
    parser.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="continue; its settings hold unless a flag is given"
    )
    parser.add_argument("--compare", action="store_true", help="afterwards, time the step against plain PyTorch's")
    for spec in fields(Config):
        parser.add_argument(
            "--" + spec.name.replace("_", "-"),
            type=value_type(spec),
            choices=spec.metadata.get("choices"),
            default=SUPPRESS,
            help=f"{spec.metadata['help']} (default: {spec.default})",
        )


def run(args: Namespace) -> int:
    """Train as the parsed arguments say. Returns the exit status: 0, or 1 after an error, which goes to stderr."""
    try:
        config = _config(args)
        samples = train(config, args.resume)
        if args.compare:
            print(compare(config))  # noqa: T201
    except (ImportError, OSError, ValueError, ArithmeticError) as error:
        print(f"fastgan train: error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"samples: {samples}")  # noqa: T201
    return 0


def _config(args: Namespace) -> Config:
    """Defaults, or the checkpoint's settings; then the preset's; then the flags that were given."""
    settings = {} if args.resume is None else load(args.resume)[1].get("config")
    flags = {spec.name: getattr(args, spec.name) for spec in fields(Config) if hasattr(args, spec.name)}
    return Config.from_json({**Config.from_json(settings).to_json(), **PRESETS.get(args.preset, {}), **flags})
