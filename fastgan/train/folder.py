"""The folder of one run: its log, sample grids and checkpoint, and no other run's."""

import re
from pathlib import Path
from types import TracebackType

from torch import Tensor

from fastgan.train.checkpoint import load_record
from fastgan.train.files import TEMPORARY
from fastgan.train.log import Log
from fastgan.train.sample import save_grid
from fastgan.train.state import TrainState

CHECKPOINT, LOG, GRID = "checkpoint.safetensors", "log.jsonl", "samples-{:06d}.png"
GRID_NAME = re.compile(r"samples-(\d{6,})\.png")
UNFINISHED = re.compile(rf"({re.escape(CHECKPOINT)}|{GRID_NAME.pattern})\.\d+{re.escape(TEMPORARY)}")


class RunFolder:
    """Holds the folder `path`, and its lock, for a new run or for the one that `resume` was saved by.

    Raises OSError when it cannot be made or written, ValueError when another process holds it, or when it keeps a run
    that this one does not continue.
    """

    def __init__(self, path: Path, resume: Path | None = None):
        self.path, self.checkpoint = path, path / CHECKPOINT
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"out = {str(path)!r}: not a folder")
        path.mkdir(parents=True, exist_ok=True)
        try:
            self.log = Log(path / LOG)
        except BlockingIOError:
            raise ValueError(f"out = {str(path)!r}: another run writes there: choose another --out") from None
        try:
            self._check_is_ours(resume)
        except BaseException:
            self.log.close()
            raise

    def _check_is_ours(self, resume: Path | None) -> None:
        if resume is not None and self.checkpoint.exists() and resume.exists() and self.checkpoint.samefile(resume):
            return
        if self.checkpoint.exists():
            way = f"continue it with --resume {self.checkpoint}, or choose another --out"
            raise ValueError(f"out = {str(self.path)!r}: holds a run already: {way}")
        if len(self.log) or grids(self.path):
            raise ValueError(f"out = {str(self.path)!r}: holds what is left of a run: choose another --out")

    def begin(self, step: int) -> None:
        """Remove what a run that was stopped wrote after its checkpoint of `step`: those steps are done again."""
        for path in self.path.iterdir():
            if UNFINISHED.fullmatch(path.name):
                path.unlink()
        if step:
            self.log.cut(step)
            for at, grid in grids(self.path):
                if at > step:
                    grid.unlink()

    def save_grid(self, images: Tensor, step: int) -> Path:
        """Write the sample grid of `step`. Raises FloatingPointError for images that are not finite."""
        if not images.isfinite().all():
            raise FloatingPointError("samples are not finite")
        grid = self.path / GRID.format(step)
        save_grid(images, grid)
        return grid

    def save(self, state: TrainState) -> None:
        """Write the checkpoint, after all records before it. Raises FloatingPointError for one that is not finite."""
        self.log.sync()
        state.save(self.checkpoint)

    def kept(self) -> str:
        """What a run that ends here can go on from."""
        if not self.checkpoint.exists():
            return "no checkpoint was written yet"
        return f"{self.checkpoint} keeps step {load_record(self.checkpoint)['step']}"

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.log.close()


def grids(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of each sample grid in the folder of a run."""
    found = [(GRID_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return [(int(match[1]), path) for match, path in found if match]
