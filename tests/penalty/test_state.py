"""Gradient penalties and what a forward changes or keeps: random values, power iterations, threads, memory."""

import gc
import threading
import time
import weakref

import pytest
import torch
import torch.nn.functional as F
from penalized import assert_same, check, critic_of, gradients, images, of_real, one_line, plain, relativistic
from torch import nn
from torch.utils.checkpoint import checkpoint

from critics import conv, sngan_grouped, sngan_hooks, sngan_parametrizations
from fastgan.penalty import R1, R2, WGANGP, penalized_loss, proof

# --- random values and power iterations ---


@pytest.mark.parametrize("build", [sngan_hooks, sngan_parametrizations, sngan_grouped])
@pytest.mark.parametrize("penalties", [[R1()], [R1(), R2()], [WGANGP(eps=torch.full((4,), 0.25)), R1()]])
def test_power_iterations(build, penalties):
    def double():
        torch.manual_seed(0)
        return build().double()

    check(double, penalties=penalties, engine="linearized")


@pytest.mark.parametrize("penalties", [[R1()], [R1(), R2()], [WGANGP()]])
def test_dropout(penalties):
    check(lambda: critic_of(nn.Dropout(0.3), nn.Dropout2d(0.2)), penalties=penalties, engine="linearized")


@pytest.mark.parametrize("preserve", [True, False])
def test_checkpointing(preserve):
    runs = []

    def forward(self, x):
        def middle(h):
            runs.append(1)
            h = F.relu(self.middle(h))
            if preserve:
                h = F.dropout(h, 0.3)
            return F.leaky_relu(self.middle(F.leaky_relu(h)) + h, 0.2)

        return self.head(checkpoint(middle, self.stem(x), use_reentrant=False, preserve_rng_state=preserve))

    critic, other = (one_line(forward, middle=lambda: conv(6, 6)) for _ in range(2))
    penalized_loss(critic, images(), None, of_real, [R1()])
    runs.clear()
    torch.manual_seed(1)
    out = penalized_loss(critic, images(), None, of_real, [R1()])
    out.loss.backward()
    ours = len(runs)
    runs.clear()
    torch.manual_seed(1)
    plain(other, images(), None, of_real, [R1()])[0].backward()
    assert ours == len(runs)
    assert_same(gradients([critic]), gradients([other]))


def test_threads():
    """Two at once; afterwards torch.compile compiles as before."""
    stance = torch._dynamo.eval_frame._stance
    critics, found = [critic_of(), critic_of()], []
    together = threading.Barrier(2)

    def run(critic):
        def waiting(x):
            # The first is inside until the second has come, and then goes first.
            if not critic.waited:
                critic.waited = True
                together.wait(20)
                time.sleep(critic.delay)
            return critic(x)

        critic.waited, critic.delay = False, 0.5 * critics.index(critic)
        penalized_loss(waiting, images(), images(seed=1), relativistic, [R1()]).loss.backward()
        found.append(gradients([critic]))

    threads = [threading.Thread(target=run, args=(critic,)) for critic in critics]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = critic_of()
    plain(other, images(), images(seed=1), relativistic, [R1()])[0].backward()
    assert torch._dynamo.eval_frame._stance == stance
    assert len(found) == 2
    for ours in found:
        assert_same(ours, gradients([other]))


# --- memory ---


@pytest.mark.parametrize("engine", ["linearized", "double_backward"])
def test_activations_are_freed(engine):
    alive = []

    def forward(self, x):
        h = self.stem(x)
        alive.append(weakref.ref(h))
        h = F.relu(h)
        alive.append(weakref.ref(h))
        alive.append(weakref.ref(h.untyped_storage()))
        return self.head(h), h

    critic = one_line(forward)
    gc.collect()
    gc.disable()
    try:
        out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1()], engine=engine)
        if engine == "linearized":  # and those of the real samples even before
            assert not any(ref() for ref in alive[:3])
        out.loss.backward()
        assert len(alive) == 6
        assert not any(ref() for ref in alive)
    finally:
        gc.enable()


def test_kept_features_do_not_keep_the_tape(monkeypatch):
    tapes, kept = [], []
    init = proof.Linearization.__init__

    def note(self, *args):
        init(self, *args)
        tapes.append(weakref.ref(self.tape))

    monkeypatch.setattr(proof.Linearization, "__init__", note)
    critic = one_line(lambda self, x: (lambda h: (self.head(h), kept.append(h)))(F.relu(self.stem(x))))
    gc.collect()
    gc.disable()
    try:
        out = penalized_loss(critic, images(), images(seed=1), relativistic, [R1(), R2()])
        assert out.path == "linearized"
        assert len(tapes) == len(kept) == 2
        assert not any(tape() for tape in tapes)
    finally:
        gc.enable()
