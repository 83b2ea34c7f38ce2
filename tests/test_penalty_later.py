"""What was proved of a critic in its first step still holds when its weights have become others."""

import pytest
import torch
import torch.nn.functional as F

from critics import ZOO
from fastgan.penalty import R1, R2, penalized_loss


def logistic(real, fake):
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def plain(critic, real, fake, args):
    xs = [x.clone().requires_grad_() for x in (real, fake)]
    logits = [o[0] if isinstance(o := critic(x, *args), tuple) else o for x in xs]
    loss = logistic(*logits)
    for x, o in zip(xs, logits, strict=True):
        (g,) = torch.autograd.grad(o.sum(), x, create_graph=True)
        loss = loss + 5 * g.flatten(1).square().sum(1).mean()
    return loss


def ours(critic, real, fake, args):
    return penalized_loss(
        critic, real, fake, adversarial=logistic, penalties=[R1(), R2()], real_args=args, fake_args=args
    ).loss


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.plain])
def test_gradients_after_the_critic_has_changed(name):
    """New weights of another size, gains that were zero at work, units alive that were dead, other images."""
    entry, critics = ZOO[name], []
    for loss in (plain, ours):
        critic = entry.critic()
        for step in range(2):
            torch.manual_seed(step)
            args, images = entry.args(4), [entry.images(seed=2 * step + i) for i in range(2)]
            critic.zero_grad()
            loss(critic, *images, args).backward()
            if step == 0:
                torch.manual_seed(7)
                with torch.no_grad():
                    for p in critic.parameters():
                        p.normal_(std=0.3)
                    for key, buffer in critic.named_buffers():
                        if key.endswith("gain"):
                            buffer.fill_(0.7)
        critics.append(critic)
    gradients = [[p.grad for p in critic.parameters() if p.requires_grad] for critic in critics]
    size = torch.stack([g.norm() for g in gradients[0] if g is not None]).norm()
    for expected, found in zip(*gradients, strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            assert (found - expected).norm() <= 1e-9 * max(expected.norm(), 1e-3 * size)
