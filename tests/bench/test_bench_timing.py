"""The statistics on synthetic timers; no test looks at a real clock."""

import numpy as np
import pytest

from fastgan.bench.timing import Budget, Ratio, Timed, interleave, ratio, spread


class Clock:
    """A timer that says what a contender says it took, and keeps the order of the calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, run):
        name, seconds = run()
        self.calls.append(name)
        return seconds


def contender(name, seconds, **kwargs):
    return Timed(lambda: (name, seconds), **kwargs)


def test_interleave_times_everyone_once_per_round():
    clock = Clock()
    budget = Budget(warmup=2, rounds=5, most=5, seconds=0)
    times = interleave({"a": contender("a", 1.0), "b": contender("b", 2.0)}, clock, budget)
    assert times == {"a": [1.0] * 5, "b": [2.0] * 5}
    assert clock.calls[:4] == ["a", "b"] * 2
    rounds = [set(clock.calls[i : i + 2]) for i in range(4, 14, 2)]
    assert rounds == [{"a", "b"}] * 5


def test_interleave_draws_the_order_anew():
    clock = Clock()
    interleave({n: contender(n, 1.0) for n in "abc"}, clock, Budget(warmup=0, rounds=20, most=20, seconds=0))
    assert len({tuple(clock.calls[i : i + 3]) for i in range(0, 60, 3)}) > 2


def test_interleave_stops_at_most_rounds_when_time_is_left():
    budget = Budget(warmup=0, rounds=1, most=7, seconds=1e9)
    assert len(interleave({"a": contender("a", 1.0)}, Clock(), budget)["a"]) == 7


def test_before_and_context_are_not_timed():
    events = []

    class Context:
        def __enter__(self):
            events.append("enter")

        def __exit__(self, *_):
            events.append("exit")

    def timer(run):
        events.append("start")
        run()
        return 1.0

    timed = Timed(lambda: events.append("run"), before=lambda: events.append("before"), context=Context)
    interleave({"a": timed}, timer, Budget(warmup=0, rounds=1, most=1, seconds=0))
    assert events == ["enter", "before", "start", "run", "exit"]


def test_spread():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0, 6.0]) == (3.5, 2.0, 5.0)


def test_ratio_of_constant_times_is_exact():
    assert ratio([4.0] * 9, [2.0] * 9) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("slower", "text"), [(2.0, "2."), (0.5, "0.")])
def test_ratio_outside_the_noise_is_printed(slower, text):
    noise = np.random.default_rng(1).normal(1.0, 0.05, (2, 51))
    result = ratio(list(slower * noise[0]), list(noise[1]))
    assert result.low <= slower <= result.high
    assert str(result).startswith(text)


def test_ratio_inside_the_noise_is_no_difference():
    noise = np.random.default_rng(1).normal(1.0, 0.2, (2, 51))
    assert str(ratio(list(noise[0]), list(noise[1]))) == "no difference"
    assert str(Ratio(1.5, 0.99, 2.1)) == "no difference"


def test_ratio_does_not_care_about_noise_that_both_share():
    drift = np.linspace(1.0, 5.0, 40)
    result = ratio(list(3 * drift), list(drift))
    assert (result.low, result.high) == pytest.approx((3.0, 3.0))


def test_ratio_is_the_same_every_time():
    times = list(np.random.default_rng(2).random((2, 30)))
    assert ratio(*times) == ratio(*times)
