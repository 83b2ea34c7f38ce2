"""`fastgan export`: a trained generator as a file that other programs run without fastgan, and its card."""

import io
import logging
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgan import decompositions
from fastgan.train.afterwards.arguments import add_run
from fastgan.train.afterwards.card import card
from fastgan.train.afterwards.latents import draw
from fastgan.train.extras import require
from fastgan.train.files import write_whole
from fastgan.train.terminal import finish
from fastgan.train.trained import Trained, read

# Of the largest value that G gives: the order of operations differs, and so does rounding.
TOLERANCE = 1e-3
CHECKED_BATCHES = (1, 3)
INPUTS = ["z", "classes"]


class Format(NamedTuple):
    """Program -> the content of a file; and that content -> a function that runs it, None where nothing here can."""

    content: Callable[[Any], bytes]
    runner: Callable[[bytes], Callable[..., Tensor] | None]


def add_arguments(parser: ArgumentParser) -> None:
    """Add RUN and the options."""
    add_run(parser)
    parser.add_argument("--format", choices=sorted(FORMATS), required=True, help="ONNX, or torch.export's own")
    parser.add_argument("--out", type=Path, required=True, help="FILE that ends in .FORMAT; FILE.md says what it is")


def run(args: Namespace) -> int:
    """Export as the parsed arguments say. Returns the exit status."""
    return finish("export", lambda: export(args.run_path, args.out, args.format))


def export(run_path: Path, out: Path, kind: str) -> str:
    """Write G to `out`, compare it with G, and write its card beside it. Returns the line that says so.

    Raises as `fastgan.train.load`; ValueError for a name that does not end in `.kind`; ImportError naming a package
    that `kind` needs; ArithmeticError, without a file, when the file gives other images than G; OSError.
    """
    if out.suffix.lower() != f".{kind}" or out.is_dir():
        raise ValueError(f"out = {str(out)!r}: expected a file that ends in .{kind}")
    trained = read(run_path)
    G = trained.G.to(memory_format=torch.contiguous_format)
    with _quiet():
        content = FORMATS[kind].content(_program(G, _inputs(trained, 2)))
        checked = _compare(trained, FORMATS[kind].runner(content))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, content)
    write_whole(out.with_name(f"{out.name}.md"), card(trained, out.name, kind, checked).encode())
    return f"{kind}: {out} ({checked})"


def _inputs(trained: Trained, n: int) -> tuple[Tensor, ...]:
    """n latents, and as many classes where G takes them."""
    return draw(n, trained.recipe.settings.z_dim, seed=n).float(), *trained.recipe.given(n)


def _program(G: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """G in torch's own ops, for any number of latents, without the names of this machine's files."""
    batch = {0: torch.export.Dim("batch")}
    # strict=False: what torch 2.6 makes of its own analysis of Python takes no batch of one
    program = torch.export.export(G, inputs, dynamic_shapes=_shapes(batch, len(inputs)), strict=False)
    program = program.run_decompositions(decompositions())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _shapes(batch: Any, inputs: int) -> dict[str, Any]:
    """By the names of G's parameters: z, and *y."""
    return {"z": batch, "y": (batch,) * (inputs - 1)} if inputs > 1 else {"z": batch}


def _compare(trained: Trained, exported: Callable[..., Tensor] | None) -> str:
    """What comparing with G gave, in words. Raises ArithmeticError when they differ."""
    if exported is None:
        return "not checked: onnxruntime is not installed"
    largest = 0.0
    for batch in CHECKED_BATCHES:
        inputs = _inputs(trained, batch)
        images, expected = exported(*inputs), trained.G(*inputs)
        difference, limit = (images - expected).abs().max().item(), TOLERANCE * expected.abs().max().item()
        if not difference <= limit:  # NaN is no less
            raise ArithmeticError(
                f"the exported images differ from G's by {difference:.2g}: expected at most {limit:.2g}"
            )
        largest = max(largest, difference)
    return f"checked: its images differ from G's by {largest:.1g} at most"


# --- pt2 ---


def _pt2(program: torch.export.ExportedProgram) -> bytes:
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def _run_pt2(content: bytes) -> Callable[..., Tensor]:
    return torch.export.load(io.BytesIO(content)).module()


# --- onnx ---


def _onnx(program: torch.export.ExportedProgram) -> bytes:
    require("onnx"), require("onnxscript")
    inputs = INPUTS[: len(program.graph_signature.user_inputs)]
    options = {"input_names": inputs, "output_names": ["images"], "verbose": False}
    model = torch.onnx.export(program, (), dynamic_shapes=_shapes({0: "batch"}, len(inputs)), **options)
    content = io.BytesIO()
    model.save(content)
    return content.getvalue()


def _run_onnx(content: bytes) -> Callable[..., Tensor] | None:
    if find_spec("onnxruntime") is None:
        return None
    session = require("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda *inputs: torch.from_numpy(
        session.run(None, {name: t.numpy() for name, t in zip(INPUTS, inputs, strict=False)})[0]
    )


FORMATS = {"onnx": Format(_onnx, _run_onnx), "pt2": Format(_pt2, _run_pt2)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
