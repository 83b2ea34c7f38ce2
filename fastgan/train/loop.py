"""The training loop: step, log, samples, checkpoints."""

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.environment import describe
from fastgan.train.extras import require
from fastgan.train.folder import RunFolder
from fastgan.train.losses import LossWatch
from fastgan.train.recipe import Data, Recipe
from fastgan.train.sample import generate
from fastgan.train.signals import Stopped, StopSignals
from fastgan.train.state import TrainState
from fastgan.train.terminal import Stderr

GRID = 64  # images in a sample grid


def train(recipe: Recipe, resume: Path | None = None) -> Path:
    """Train to the settings' `steps` or for their `minutes`, from scratch or from the checkpoint `resume`.

    Writes log.jsonl, samples-<step>.png and checkpoint.safetensors into `out`. Returns the last grid's path.
    SIGINT, SIGTERM and SIGHUP end it after the step under way and a checkpoint; a second one ends it at once.

    Raises ValueError on malformed data or checkpoints and on a folder that holds another run, OSError on what cannot
    be read or written, FloatingPointError when losses, images or weights are not finite: then, and always, the last
    checkpoint is kept. Raises Stopped after a signal.
    """
    # At once, rather than when the first grid or checkpoint is due.
    tqdm, _, _ = map(require, ("tqdm", "PIL", "safetensors"))
    config = recipe.settings
    with RunFolder(Path(config.out), resume) as folder:
        data = recipe.load()
        state = TrainState(recipe, data)
        if resume is not None:
            state.restore(resume)
        if state.step >= config.steps:
            raise ValueError(f"steps = {config.steps}: {resume} is at step {state.step} already, expected more")
        folder.begin(state.step)
        bar = tqdm.tqdm(total=config.steps, initial=state.step, unit="step", mininterval=1.0, file=Stderr())
        try:
            with bar, StopSignals() as stop:
                return _Run(recipe, data, state, folder, bar).until(stop)
        except OSError as error:
            raise OSError(f"{error}; {folder.kept()}") from error


class _Run:
    """One call of `train`, from its first step on."""

    def __init__(self, recipe: Recipe, data: Data, state: TrainState, folder: RunFolder, bar: Any):
        self.recipe, self.data, self.state, self.folder, self.bar = recipe, data, state, folder, bar
        self.config = recipe.settings
        self.watch = LossWatch(state.device)
        z = recipe.latents(GRID, torch.Generator().manual_seed(self.config.seed))
        self.drawn = [t.to(state.device) for t in (z, *recipe.given(GRID))]
        self.start = self.logged_at = time.perf_counter()
        self.logged_step = state.step

    def until(self, stop: StopSignals) -> Path:
        """Train to the end, or until a signal. Returns the path of the last grid."""
        state, folder = self.state, self.folder
        folder.log.write(
            event="start", step=state.step, config=self.config.to_json(), environment=describe(state.device)
        )
        while True:
            losses = state.advance()
            self.watch.note(state.step, losses)
            self.bar.update()
            signal = stop.received  # once: it may come at any time
            last = self._is_last()
            try:
                grid = self._write(losses, last, stopping=signal is not None)
            except FloatingPointError as error:
                told = f"training has diverged: {error} at step {state.step}"
                raise FloatingPointError(f"{told}; {folder.kept()}; lower learning rates may help") from error
            except OSError:
                with suppress(OSError, FloatingPointError):  # there may be room for this
                    folder.save(state)
                raise
            if signal is not None:
                raise Stopped(signal, f"stopped by {signal.name}; {folder.kept()}: continue with --resume")
            if last:
                self._measure()
                return grid

    def _is_last(self) -> bool:
        minutes = (time.perf_counter() - self.start) / 60
        limit = math.inf if self.config.minutes is None else self.config.minutes
        return self.state.step == self.config.steps or minutes >= limit

    def _write(self, losses: dict[str, Tensor], last: bool, stopping: bool) -> Path | None:
        """What is due after this step, the checkpoint last: what it keeps has been logged. Returns the grid's path."""
        config, state, folder, grid = self.config, self.state, self.folder, None

        def due(every: int) -> bool:
            return last or state.step % every == 0

        if due(config.log_every):
            self._log(losses, last)
        if due(config.sample_every):
            grid = folder.save_grid(self.recipe.as_images(generate(state.ema, *self.drawn)), state.step)
        if due(config.checkpoint_every) or stopping:
            folder.save(state)
        return grid

    def _measure(self) -> None:
        ema = self.state.ema.eval()
        if values := self.recipe.measure(ema, self.data):
            self.folder.log.write(event="measure", step=self.state.step, **values)
            self.bar.write(f"measure: {', '.join(f'{name} {value:.3g}' for name, value in values.items())}")

    def _log(self, losses: dict[str, Tensor], last: bool) -> None:
        step, values = self.state.step, {name: loss.item() for name, loss in losses.items()}
        self.watch.check(values)
        now = time.perf_counter()  # .item() waited for the device
        samples = (step - self.logged_step) * self.config.n_critic * self.config.batch
        speed = samples / (now - self.logged_at)
        self.logged_step, self.logged_at = step, now
        self.folder.log.write(event="step", step=step, seconds=now - self.start, images_per_second=speed, **values)
        self.bar.set_postfix({**values, "images/s": speed}, refresh=last)
