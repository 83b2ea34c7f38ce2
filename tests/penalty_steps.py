"""Under DistributedDataParallel penalized_loss trains as plain torch does: one process of two; rank, store."""

import os
import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from critics import ZOO
from fastgan.penalty import R1, R2, penalized_loss


class WithUnused(nn.Module):
    def __init__(self, critic):
        super().__init__()
        self.critic, self.unused = critic, nn.Linear(2, 2)

    def forward(self, x):
        return self.critic(x)


def adversarial(real_logits, fake_logits):
    return F.softplus(fake_logits - real_logits).mean()


def plain(critic, real, fake):
    real, fake = (x.requires_grad_() for x in (real, fake))
    real_logits, fake_logits = critic(real), critic(fake)
    (g,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    (h,) = torch.autograd.grad(fake_logits.sum(), fake, create_graph=True)
    return adversarial(real_logits, fake_logits) + R1(2.0).value(g) + R2(2.0).value(h)


def train(rank, name, unused, penalized, every_rank):
    """The gradients' average, of different data on each rank, as steps of descent; the state after them."""
    critic = ZOO[name].critic()
    model = WithUnused(critic) if unused else critic
    distributed = DistributedDataParallel(model, find_unused_parameters=unused)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    paths = set()
    for step in range(3):
        real, fake = (ZOO[name].images(2, seed=10 * step + 2 * i + (rank if every_rank else 0)) for i in range(2))
        optimizer.zero_grad()
        if penalized:
            out = penalized_loss(distributed, real, fake, adversarial, [R1(2.0), R2(2.0)])
            loss = out.loss
            paths.add(out.path)
        else:
            loss = plain(distributed, real, fake)
        loss.backward()
        optimizer.step()
    return model.state_dict(), paths


def main(rank, store):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for name, unused in (("dcgan", False), ("sngan, hooks", False), ("patch critic", False), ("dcgan", True)):
        expected, _ = train(rank, name, unused, penalized=False, every_rank=True)
        alone, _ = train(rank, name, unused, penalized=False, every_rank=False)
        ours, paths = train(rank, name, unused, penalized=True, every_rank=True)
        # torch puts a function of its own around outputs to find unused parameters.
        assert paths == {"double_backward" if unused else "linearized"}
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
        assert any(not torch.equal(a, b) for a, b in zip(alone.values(), expected.values(), strict=True))
    # Not the ordinary way out: now and then gloo's threads abort a process there, one of plain torch too.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
