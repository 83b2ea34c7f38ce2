"""The command `fastgan`: `fastgan doctor`, `fastgan bench`, `fastgan train` and so on; `COMMANDS` has all."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from fastgan import __version__, backends


class Command(NamedTuple):
    """A subcommand: the module with its `add_arguments(parser)` and `run(args) -> int`, and one line of help."""

    module: str
    summary: str


COMMANDS = {
    "doctor": Command("fastgan.doctor", "what is installed, which backends work, and whether their results are right"),
    "bench": Command("fastgan.bench.cli", "measure fastgan against plain PyTorch"),
    "patch": Command("fastgan.compat.cli", "what fastgan.patch knows, and what it does to a codebase"),
    "train": Command("fastgan.train.cli", "train a GAN"),
    "sample": Command("fastgan.train.afterwards.sample", "write images of a trained generator"),
    "interpolate": Command("fastgan.train.afterwards.interpolate", "go from image to image: a strip or a film"),
    "export": Command("fastgan.train.afterwards.export", "write a trained generator as a file that needs no fastgan"),
    "report": Command("fastgan.train.afterwards.report", "write a run's curves, samples and settings as one HTML page"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    141 says that the reader of the output is gone, and 130 that the user interrupted, as in shells.

    Args:
        argv: the arguments, without the program's name; None for those of the process.
    """
    try:
        backends.environment()
    except (ValueError, RuntimeError) as error:
        print(f"fastgan: {error}", file=sys.stderr)
        return 1
    try:
        try:
            return _run(sys.argv[1:] if argv is None else list(argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("fastgan: interrupted", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fastgan", description="GAN training in PyTorch, faster, same results.")
    parser.add_argument("--version", action="version", version=f"fastgan {__version__}")
    parser.set_defaults(run=lambda _: parser.print_help() or 0)
    subparsers = parser.add_subparsers(title="commands")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.summary, description=command.summary)
        # Only the command that was asked for is imported: the others may need extras.
        if argv[:1] == [name]:
            module = import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
