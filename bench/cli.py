"""`fastgan bench`: measure, list what can be measured, and write tables of result files."""

import argparse
import os
import sys
from pathlib import Path

import torch

from fastgan import backends
from fastgan.bench import peers, plot, report, results, timing
from fastgan.bench.registry import OPS, SUITES
from fastgan.bench.runner import Settings
from fastgan.bench.runner import run as run_op
from fastgan.bench.workload import Op
from fastgan.environment import describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands; without one it is a quick run."""
    _add_run_options(parser)
    parser.set_defaults(action=_run, quick=True)
    commands = parser.add_subparsers(title="commands", description="without one: run --quick")

    run_parser = commands.add_parser("run", help="measure; equality is checked first")
    _add_run_options(run_parser)
    run_parser.set_defaults(action=_run)

    commands.add_parser("list", help="list ops and cases").set_defaults(action=_list)

    compare_parser = commands.add_parser("compare", help="compare two result files")
    compare_parser.add_argument("before", type=Path)
    compare_parser.add_argument("after", type=Path)
    compare_parser.set_defaults(action=_compare)

    plot_parser = commands.add_parser("plot", help="draw the speed-ups of a result file")
    plot_parser.add_argument("file", type=Path)
    plot_parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png, .svg or .pdf")
    plot_parser.set_defaults(action=_plot)

    report_parser = commands.add_parser("report", help="print result files, or write a document's tables from them")
    report_parser.add_argument("files", type=Path, nargs="*", help="(bench/results/*.json, of the document's project)")
    report_parser.add_argument("--readme", type=Path, metavar="FILE", help="rewrite its tables instead of printing")
    report_parser.set_defaults(action=_report)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", action="append", choices=OPS, help="what to measure; may be repeated (all)")
    suite_help = f"a case or an op of `list`, or {', '.join(SUITES)}; may be repeated (all)"
    parser.add_argument("--suite", action="append", metavar="CASE", help=suite_help)
    parser.add_argument("--gpu-cases", action="store_true", help="of what is measured the cases of bench/gpu.sh alone")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and the small cases alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a result file")
    backend_help = "fastgan's backend; may be repeated (FASTGAN_BACKEND, else the first one available)"
    parser.add_argument("--backend", action="append", choices=backends.PACKAGES, help=backend_help)
    parser.add_argument("--device", choices=backends.ORDER, help="(cuda where there is a GPU)")
    peer_help = f"measure a checkout too ({', '.join(peers.CODEBASES)}); may be repeated"
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=DIR", help=peer_help)
    compile_help = "measure torch.compile too, which takes minutes to compile (on cuda, unless --quick)"
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help=compile_help)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say; 1 if something was wrong or failed."""
    try:
        return args.action(args)
    except BrokenPipeError:
        raise  # the reader of the output is gone: the command ends, there is nothing to say
    except (ModuleNotFoundError, OSError, ValueError) as error:
        print(f"fastgan bench: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device")
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    settings = Settings(
        device=device,
        backends=_backends(args.backend, device),
        compiled=device.type == "cuda" and not args.quick if args.compile is None else args.compile,
        budget=timing.QUICK if args.quick else timing.FULL,
    )
    for peer in args.peer:
        peers.load(peer)
    ops = [OPS[name] for name in args.op or OPS]
    known = {*SUITES, *(name for op in ops for name in (op.name, *op.cases))}
    if unknown := set(args.suite or ()) - known:
        raise ValueError(f"--suite {', '.join(sorted(unknown))}: there are {', '.join(sorted(known))}")
    outcome = results.Report(describe(device))
    if args.json:
        results.write(outcome, args.json)  # that it cannot be written is said before anything is measured
    for op in ops:
        for case in _cases(op, args):
            print(f"measuring {op.name}, {case}", file=sys.stderr)
            run_op(op, case, settings, outcome)
            if args.json:
                results.write(outcome, args.json)
    print(report.to_text(outcome))
    return int(outcome.failed)


def _cases(op: Op, args: argparse.Namespace) -> list[str]:
    names = {op.name, *(suite for suite, ops in SUITES.items() if op in ops)}
    if args.suite and names.isdisjoint(args.suite):
        return [case for case in op.cases if case in args.suite]
    return list(op.gpu if args.gpu_cases else op.quick if args.quick else op.cases)


def _backends(asked: list[str] | None, device: torch.device) -> list[str]:
    """Those that were asked for, else FASTGAN_BACKEND, else the first one that serves the device here."""
    available = backends.available()
    from_environment = os.environ.get("FASTGAN_BACKEND")
    names = asked or [from_environment or next(name for name in backends.ORDER[device.type] if available[name].ok)]
    for name in names:
        if not available[name].ok:
            source = "--backend" if asked else "FASTGAN_BACKEND"
            raise ValueError(f"{source} {name}: it is not available: {available[name].reason}")
    return names


def _list(_: argparse.Namespace) -> int:
    for op in OPS.values():
        print(op.name)
        for case, description in op.cases.items():
            marks = " (quick)" * (case in op.quick) + " (GPU)" * (case in op.gpu)
            print(f"  {case:32} {description}{marks}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    print(report.compare(results.read(args.before), results.read(args.after)))
    return 0


def _plot(args: argparse.Namespace) -> int:
    plot.speed_ups(results.read(args.file), args.out)
    print(f"wrote {args.out}")
    return 0


def _report(args: argparse.Namespace) -> int:
    beside = args.readme.parent if args.readme else Path()
    folder = (beside.parent if beside.name == "docs" else beside) / "bench" / "results"
    files = args.files or sorted(folder.glob("*.json"))
    if not files:
        raise ValueError(f"there is no result file in {folder}")
    reports = {file.stem: results.read(file) for file in files}
    if args.readme:
        args.readme.write_text(report.rewrite(args.readme.read_text(), reports))
        print(f"wrote {args.readme}")
    else:
        print("\n\n".join(map(report.to_text, reports.values())))
    return 0
