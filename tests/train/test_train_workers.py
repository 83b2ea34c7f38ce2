import os
import signal
import threading
import time

import pytest

from fastgan.train.workers import CHUNK, in_order


@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK + 1, 10 * CHUNK])
def test_results_are_in_order(count):
    assert list(in_order(lambda i: i * i, count)) == [i * i for i in range(count)]


def test_work_is_shared(monkeypatch):
    """The first two wait for each other."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    both = threading.Barrier(2, timeout=30)
    assert len([*in_order(lambda i: both.wait() if i in (0, CHUNK) else 0, 2 * CHUNK)]) == 2 * CHUNK


@pytest.mark.parametrize("reason", ["an error", "Ctrl-C", "no more wanted"])
def test_the_end_ends_all(monkeypatch, reason):
    """After the first error, or an interruption, no thread takes another file."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    begun = []

    def work(i):
        begun.append(i)
        if i == 0 and reason == "an error":
            raise ValueError("the first")
        if i == 0 and reason == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.002)
        return i

    results = in_order(work, 10_000)
    if reason == "an error":
        with pytest.raises(ValueError, match="the first"):
            list(results)
    elif reason == "Ctrl-C":
        with pytest.raises(KeyboardInterrupt):
            list(results)
    else:
        next(results)
        results.close()
    ended_at = len(begun)
    time.sleep(0.02)
    assert len(begun) == ended_at < 10_000
