"""`fastgan patch`: the families of codebases that `fastgan.patch` knows."""

import argparse

from fastgan.compat import patching


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `fastgan patch`."""
    parser.add_argument("--list", action="store_true", help="list the families; so it does without")


def run(args: argparse.Namespace) -> int:
    """Print the families and return the exit status."""
    for name, aliases in patching.FAMILIES.items():
        also = f" ({', '.join(aliases)})" if aliases else ""
        print(f"{name}{also}\n    {patching.load(name).summary}")
    return 0
