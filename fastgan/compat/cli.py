"""`fastgan patch`: the families that `fastgan.patch` knows, and what it does to the codebase in a folder."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from fastgan.compat import patching


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `fastgan patch`."""
    parser.add_argument("name", nargs="?", help="a codebase or its family, to see what fastgan.patch does to it")
    parser.add_argument(
        "--checkout", metavar="DIR", help="the codebase: its modules are imported, and compared with ours"
    )
    parser.add_argument("--list", action="store_true", help="list the families; so it does without a name")


def run(args: argparse.Namespace) -> int:
    """Print the families, or one family's report, and return the exit status."""
    if args.list or (args.name is None and args.checkout is None):
        for name, aliases in patching.FAMILIES.items():
            also = f" ({', '.join(aliases)})" if aliases else ""
            print(f"{name}{also}\n    {patching.load(name).summary}")
        return 0
    try:
        if args.name is None:
            raise ValueError("name must be given with --checkout, see `fastgan patch --list`")
        patching.patch(args.name)
        failed = [] if args.checkout is None else _import(args.name, Path(args.checkout))
    except ValueError as error:
        print(f"fastgan patch: error: {error}", file=sys.stderr)
        return 2
    print(patching.patch(args.name), *failed, sep="\n")
    return 0


def _import(name: str, folder: Path) -> list[str]:
    """Import what a folder has of a family's modules, and say which of them fail."""
    if not folder.is_dir():
        raise ValueError(f"--checkout must be a folder that exists, got {str(folder)!r}")
    modules = list(patching.load(patching.family_of(name)).functions)
    there = [
        m for m in modules if (path := folder.joinpath(*m.split("."))).with_suffix(".py").is_file() or path.is_dir()
    ]
    if not there:
        raise ValueError(f"--checkout must have one of {', '.join(modules)}; there is none in {str(folder)!r}")
    sys.path.insert(0, str(folder))
    failed = []
    for module in there:
        try:
            import_module(module)
        except Exception as error:  # noqa: PERF203  whatever the codebase lacks
            failed.append(f"{module} cannot be imported: {type(error).__name__}: {error}")
    return failed
