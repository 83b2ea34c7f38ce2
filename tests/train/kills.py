"""Kills runs and continues them, in processes forked from this one, which has trained once and runs one thread.

`python kills.py FOLDER SEED KILLS SIGNALS` prints a line for each run that did not end as the uninterrupted one did.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
import tqdm
from PIL import Image

from fastgan.train import checkpoint
from fastgan.train.cli import add_arguments, run

STEPS = 12
FLAGS = (
    f"--channels 1 --steps {STEPS} --batch 2 --width 4 --width-g 4 --z-dim 4 --n-critic 1 --ema-decay 0.9 "
    "--device cpu --log-every 1 --sample-every 3 --checkpoint-every 2"
).split()
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def train(arguments):
    """`fastgan train`, in silence; its exit status."""
    parser = ArgumentParser()
    add_arguments(parser)
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        return run(parser.parse_args(["images", *map(str, arguments)]))


def start(arguments, prepare=lambda: None):
    """A child that trains; its id."""
    if child := os.fork():
        return child
    status = 70
    try:
        prepare()
        status = train(arguments)
    finally:
        os._exit(status)


def end(child):
    """How it ended: its exit status, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(path, child):
    while not path.exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended without a checkpoint"
        time.sleep(0.001)


def left(out):
    """All that a run leaves, without its times."""
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in log]
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "log.jsonl"}
    return {"log": [line for line in steps if line["event"] == "step"], **files}


def kill_in_a_write(at, file):
    """Kill this process in the `at`-th durable write after the first checkpoint: before or after it is made."""

    def prepare():
        count = 0

        def killing(call):
            def wrapped(*args):
                nonlocal count
                for act in (lambda: None, lambda: call(*args)):
                    act()
                    count += file.exists()
                    if count == at:
                        os.kill(os.getpid(), signal.SIGKILL)

            return wrapped

        for name in ("fsync", "replace", "ftruncate"):
            setattr(os, name, killing(getattr(os, name)))

    return prepare


def main(root, seed, kills, signals):
    torch.set_num_threads(1)
    draw = random.Random(seed)
    data = root / "data"
    data.mkdir()
    for i in range(10):
        Image.fromarray(np.random.default_rng(i).integers(256, size=(32, 32), dtype=np.uint8)).save(data / f"{i}.png")
    flags = ["--data", data, *FLAGS]

    # Here, once, what only a first step does; tqdm's thread would not outlive a fork.
    tqdm.tqdm.monitor_interval = 0
    assert train([*flags, "--out", root / "first"]) == 0
    reference = root / "reference"
    child = start([*flags, "--out", reference])
    wait_for(reference / "checkpoint.safetensors", child)
    began = time.perf_counter()
    assert end(child) == 0
    seconds, expected = time.perf_counter() - began, left(reference)
    assert left(root / "first") == expected

    def resumed(out, told):
        file = out / "checkpoint.safetensors"
        if (status := end(start(["--resume", file]))) != 0:
            print(f"{told}: the run that continues it ends with {status}")
            return
        found = left(out)
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                print(f"{told}: {name} differs")

    done = attempt = 0
    while done < kills + signals:
        attempt += 1
        out = root / str(attempt)
        file = out / "checkpoint.safetensors"
        stop = STOPS[done % 3] if done >= kills else signal.SIGKILL
        in_a_write = stop == signal.SIGKILL and done % 2 == 0
        at, delay = draw.randrange(1, 40), draw.random() * seconds
        child = start([*flags, "--out", out], kill_in_a_write(at, file) if in_a_write else lambda: None)
        wait_for(file, child)
        began = time.perf_counter()
        if not in_a_write:
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, stop)
        status, step = end(child), checkpoint.load_record(file)["step"]
        if status == 0 or (stop != signal.SIGKILL and status == -stop and step == STEPS):
            # It was faster: no delay is longer from now on, whatever slowed the reference down.
            seconds = min(seconds, time.perf_counter() - began)
            continue
        done += 1
        told = f"attempt {attempt}, {stop.name} " + (f"in write {at}" if in_a_write else f"after {delay:.4f} s")
        if status != (-stop if stop == signal.SIGKILL else 128 + stop):
            print(f"{told}: the run ends with {status}")
        if stop != signal.SIGKILL and left(out)["log"][-1]["step"] != step:
            print(f"{told}: the checkpoint is of step {step}, the log goes on")
        if step < STEPS:
            resumed(out, told)
    print(f"{attempt} attempts", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
