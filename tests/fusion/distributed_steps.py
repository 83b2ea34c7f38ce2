"""Under DistributedDataParallel accelerated networks train as plain ones: a process of two. Arguments: rank, store."""

import os
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent.parent))
from codebases import CODEBASES

import fastgan
from fastgan.convolution import choice
from fastgan.fusion.chains import elementwise
from fastgan.fusion.report import PLAIN


def train(name, rank, accelerate):
    """Steps of two forwards before one backward, different data on each rank; the state after them."""
    model = CODEBASES[name].network(seed=rank)
    if accelerate == "before":
        report = fastgan.accelerate(model)
    distributed = DistributedDataParallel(model)
    if accelerate == "after":
        report = fastgan.accelerate(distributed)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for i in range(3):
        optimizer.zero_grad()
        distributed(*CODEBASES[name].inputs(seed=2 * i + rank)).square().mean().backward()
        optimizer.step()
    if accelerate:
        assert any(row.runs != PLAIN for row in report.rows[0]), report
    return model.state_dict()


def main(rank, store):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    elementwise._too_small = lambda x, least: ""
    choice.LEAST_WORK = choice.FOLDED_PIXELS = 0
    choice.FOLDED_CHANNELS = {True: 0, False: 0}
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name in ("dcgan generator", "wgan-gp critic", "sngan critic"):
        expected = train(name, rank, None)
        for accelerate in ("before", "after"):
            torch.testing.assert_close(train(name, rank, accelerate), expected, rtol=1e-10, atol=1e-10)
    # Not the ordinary way out: now and then gloo's threads abort a process there, one of plain torch too.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
