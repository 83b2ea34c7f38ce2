"""Under DistributedDataParallel a grouped network trains as a plain one: one process of two. Arguments: rank, store."""

import os
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook

from fastgan.nn.utils import group_spectral_norm


class Network(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.second, self.unused = (norm(nn.Linear(3, 3)) for _ in range(3))

    def forward(self, x):
        return self.second(self.first(x).tanh())


def train(rank, norm, group):
    """Steps of two forwards before one backward, different data on each rank; the state after them."""
    torch.manual_seed(rank)
    model = Network(norm)
    if group == "before":
        assert len(group_spectral_norm(model).grouped) == 3
    distributed = DistributedDataParallel(model, find_unused_parameters=True)
    if group == "after":
        assert len(group_spectral_norm(distributed).grouped) == 3
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.linspace(-1, 1 + rank, 6).view(2, 3)
    for _ in range(3):
        optimizer.zero_grad()
        (distributed(x).square().sum() + distributed(-x).sum()).backward()
        optimizer.step()
    assert all(p.grad is None for p in model.unused.parameters())
    return model.state_dict()


def main(rank, store):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for norm in (torch_hook, parametrizations.spectral_norm):
        expected = train(rank, norm, group=None)
        for group in ("before", "after"):
            torch.testing.assert_close(train(rank, norm, group), expected, rtol=1e-12, atol=1e-12)
    # Not the ordinary way out: now and then gloo's threads abort a process there, one of plain torch too.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
