"""Runs of `fastgan train` in this process, and what they leave."""

import json
from argparse import ArgumentParser

import torch

from fastgan.cli import main
from fastgan.train.cli import add_arguments, run
from fastgan.train.recipe import Data
from fastgan.train.recipes.images import Recipe
from fastgan.train.state import TrainState


def command(*flags, recipe="images"):
    parser = ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([recipe, *(str(flag) for flag in flags)]))


def flags_of(config):
    flags = []
    for name, value in config.to_json().items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            flags += [f"--{flag}", value]
    return flags


def refused(capsys, *argv):
    """Run `fastgan ...`, which is expected to fail with one line. Returns what that says."""
    assert main([str(arg) for arg in argv]) == 1
    out, err = capsys.readouterr()
    start = f"fastgan {argv[0]}: error: "
    (line,) = err.splitlines()
    assert line.startswith(start)
    assert out == ""
    return line.removeprefix(start)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def steps_of(out):
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if record["event"] == "step"]


def state_of(settings, images, dtype=torch.float32):
    """What training changes, on these images."""
    given = (images.pixels,) if images.labels is None else (images.pixels, images.labels)
    return TrainState(Recipe(settings), Data(given, classes=images.classes), dtype)
