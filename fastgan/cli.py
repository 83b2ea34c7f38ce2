"""The command `fastgan`: `fastgan doctor`, `fastgan bench`, `fastgan patch`, `fastgan train`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand: the module with its `add_arguments(parser)` and `run(args) -> int`, and one line of help."""

    module: str
    summary: str


COMMANDS = {
    "doctor": Command("fastgan.doctor", "what is installed, which backends work, and whether their results are right"),
    "bench": Command("fastgan.bench.cli", "measure fastgan against plain PyTorch"),
    "patch": Command("fastgan.compat.cli", "list the codebases that fastgan.patch knows"),
    "train": Command("fastgan.train.cli", "train a GAN"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        argv: the arguments, without the program's name; None for those of the process.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="fastgan", description="GAN training in PyTorch, faster, same numbers.")
    subparsers = parser.add_subparsers(dest="command", required=True)
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
