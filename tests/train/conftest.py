import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastgan.train import train
from fastgan.train.data import Images
from fastgan.train.recipes.images import Recipe, Settings

TINY = Settings(
    data="digits", channels=1, steps=3, batch=4, width=4, width_g=4, z_dim=4, n_critic=2, ema_decay=0.5, device="cpu"
)


@pytest.fixture
def tiny(tmp_path):
    """Settings of a run that takes a moment."""
    return replace(TINY, out=str(tmp_path / "run"))


@pytest.fixture
def images():
    """Noise [10, 1, 32, 32]: a data set of which an epoch ends within three batches."""
    return Images(torch.randint(256, (10, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def config(tiny):
    """The same, with a line of the log for each step, and a grid and a checkpoint for every other one."""
    return replace(tiny, log_every=1, sample_every=2, checkpoint_every=2)


@pytest.fixture
def out(config):
    """Where that run writes."""
    return Path(config.out)


@pytest.fixture(scope="session")
def ended(tmp_path_factory):
    """The folder of a run that has ended: two steps, each with a line of the log and a grid. Nobody writes there."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    train(Recipe(replace(TINY, steps=2, log_every=1, sample_every=1, out=str(folder))))
    return folder


@pytest.fixture
def own(tmp_path):
    """The recipe of docs/guide.md."""
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    (code,) = re.findall(r"```python\n(from dataclasses.*?)```", guide, re.DOTALL)
    (tmp_path / "circle.py").write_text(code)
    return tmp_path / "circle.py"
