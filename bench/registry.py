"""What can be measured: every module of bench/ops, bench/layers and bench/steps has `OPS`, and is found by its name."""

from importlib import import_module
from pathlib import Path

from fastgan.bench.workload import Op


def _found(suite: str) -> tuple[Op, ...]:
    files = sorted(Path(__file__).with_name(suite).glob("[!_]*.py"))
    return tuple(op for file in files for op in import_module(f"fastgan.bench.{suite}.{file.stem}").OPS)


SUITES = {suite: _found(suite) for suite in ("ops", "layers", "steps")}
OPS = {op.name: op for ops in SUITES.values() for op in ops}
