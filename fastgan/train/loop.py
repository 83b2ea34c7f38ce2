"""The training loop: step, log, samples, checkpoints."""

import math
import time
from pathlib import Path

import torch

from fastgan.train.config import Config
from fastgan.train.data import load_images
from fastgan.train.extras import require
from fastgan.train.log import Log
from fastgan.train.sample import generate, save_grid
from fastgan.train.state import TrainState

GRID = 64  # images in a sample grid


def train(config: Config, resume: Path | None = None) -> Path:
    """Train to `config.steps` or for `config.minutes`, from scratch or from the checkpoint `resume`.

    Writes log.jsonl, samples-<step>.png and checkpoint.safetensors into `config.out`. Returns the last grid's path.
    Raises ValueError on malformed data or checkpoints, FloatingPointError when a loss is not finite.
    """
    # At once, rather than when the first grid or checkpoint is due.
    tqdm, _, _ = map(require, ("tqdm", "PIL", "safetensors"))
    state = TrainState(config, load_images(config.data, config.channels))
    if resume is not None:
        state.restore(resume)
    if state.step >= config.steps:
        raise ValueError(f"steps = {config.steps}: {resume} is at step {state.step} already, expected more")
    z = torch.randn(GRID, config.z_dim, generator=torch.Generator().manual_seed(config.seed)).to(state.device)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)

    bar = tqdm.tqdm(total=config.steps, initial=state.step, unit="step", mininterval=1.0)
    with bar, Log(out / "log.jsonl") as log:
        log.write(event="start", step=state.step, config=config.to_json())
        start = logged_at = time.perf_counter()
        logged_step, last = state.step, False
        while not last:
            losses = state.advance()
            bar.update()
            seconds = time.perf_counter() - start
            last = state.step == config.steps or (config.minutes is not None and seconds >= 60 * config.minutes)

            if last or state.step % config.log_every == 0:
                values = {name: loss.item() for name, loss in losses.items()}
                now = time.perf_counter()  # .item() waited for the device
                speed = (state.step - logged_step) * config.n_critic * config.batch / (now - logged_at)
                logged_step, logged_at = state.step, now
                log.write(event="step", step=state.step, seconds=now - start, images_per_second=speed, **values)
                bar.set_postfix({**values, "images/s": speed}, refresh=last)
                for name, value in values.items():
                    if not math.isfinite(value):
                        raise FloatingPointError(f"{name} is {value} at step {state.step}: training has diverged")
            if last or state.step % config.sample_every == 0:
                grid = out / f"samples-{state.step:06d}.png"
                save_grid(generate(state.ema, z), grid)
            if last or state.step % config.checkpoint_every == 0:
                state.save(out / "checkpoint.safetensors")
    return grid
