"""How compiled code is called: what its arguments must be, and what it raises. Every op is bound in the same way."""

import re
import threading

import pytest
import torch

from fastgan import _build_info, _native

if _build_info.REASON_CPU:
    pytest.skip("compiled code is missing", allow_module_level=True)

from fastgan._C import cpu


def norm(x=0, count=1, squared=False, dtype=1, threads=1):
    return cpu.sample_norm(x, 0, 0, count, 0, squared, dtype, threads)


def scaled(factor):
    return cpu.scale_samples(0, 0, 0, 0, 0, 0, factor, 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm(x=None), "sample_norm(): argument 1 must be an integer, got None"),
        (lambda: norm(x=-1), "sample_norm(): argument 1 must be an integer of 64 bits, not negative, got -1"),
        (lambda: norm(count=1.0), "sample_norm(): argument 4 must be an integer, got 1.0"),
        (lambda: norm(count=2**63), "sample_norm(): argument 4 must be an integer of 64 bits, got 9223372036854775808"),
        (lambda: norm(squared=1), "sample_norm(): argument 6 must be True or False, got 1"),
        (lambda: norm(dtype=2**31), "sample_norm(): argument 7 must be an integer of 32 bits, got 2147483648"),
        (lambda: scaled("1"), "scale_samples(): argument 7 must be a number, got '1'"),
        (lambda: cpu.spectral_norm_workspace(3, [1]), "argument 1 must be a sequence of integers, got 3"),
        (lambda: cpu.spectral_norm_workspace([1], [None]), "argument 2 must be an integer, got [None]"),
        (
            lambda: cpu.empty_block([1], [], 256, 32, 4),
            "argument 3 must be an integer of 8 bits, not negative, got 256",
        ),
        (lambda: cpu.use_level(4), "use_level(): argument 1 must be a string, got 4"),
        (lambda: cpu.sample_norm_workspace(1), "sample_norm_workspace() takes 2 arguments, got 1"),
        (lambda: cpu.levels(1), "levels() takes 0 arguments, got 1"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


def test_an_axis_has_six_sizes():
    with pytest.raises(TypeError, match=r"argument 7 must be a sequence of 6 integers, got \(1, 2\)"):
        cpu.upfirdn2d(0, 0, 0, 0, 1, 1, (1, 2), (1, 2), False, 1.0, 1, 0, False, 0, 1, 0, 0.0, 1.0, 0.0, 1)


def test_exceptions_keep_their_kinds():
    with pytest.raises(ValueError, match="level v9 is not compiled"):
        cpu.use_level("v9")
    with pytest.raises(IndexError):
        cpu.spectral_norm_workspace([1, 1], [1])
    with pytest.raises(RuntimeError, match="the sizes of x are negative"):
        norm(count=-1)


def test_integers_and_numbers_of_other_types_are_taken():
    class Index:
        def __index__(self):
            return 3

    assert cpu.sample_norm_workspace(Index(), True) == cpu.sample_norm_workspace(3, 1)
    scaled(2)
    scaled(torch.tensor(2.0))


def test_others_run_while_a_kernel_does():
    """The GIL is released: a thread of Python's counts on, although it waits for nobody."""
    x, y = torch.ones(4, 1 << 22), torch.empty(4)
    counted, done = 0, threading.Event()

    def run():
        workspace = torch.empty(cpu.sample_norm_workspace(*x.shape), dtype=torch.float64)
        for _ in range(20):
            cpu.sample_norm(x.data_ptr(), y.data_ptr(), workspace.data_ptr(), *x.shape, True, 1, 1)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not done.is_set():
        counted += 1
    thread.join()
    assert counted > 1
    assert y.tolist() == [1 << 22] * 4


def test_functions_know_their_module_and_name():
    run = _native._compiled("bias_act", torch.device("cpu"))
    assert run is cpu.bias_act
    assert run.__name__ == "bias_act"
    assert run.__module__.endswith("_C.cpu")
