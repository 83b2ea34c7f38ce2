"""How compiled code is called: what its arguments must be, and what it raises. Every op is bound in the same way."""

import re
import sys
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
    ("function", "call"),
    [
        ("sample_norm", lambda: norm(x=None)),
        ("sample_norm", lambda: norm(x=-1)),
        ("sample_norm", lambda: norm(count=1.0)),
        ("sample_norm", lambda: norm(count=2**63)),
        ("sample_norm", lambda: norm(squared="no")),
        ("sample_norm", lambda: norm(dtype=2**31)),
        ("scale_samples", lambda: scaled("1")),
        ("spectral_norm_workspace", lambda: cpu.spectral_norm_workspace(3, [1])),
        ("spectral_norm_workspace", lambda: cpu.spectral_norm_workspace([1], [None])),
        ("empty_block", lambda: cpu.empty_block([1], [], 256, 32, 4)),
        ("use_level", lambda: cpu.use_level(4)),
        ("sample_norm_workspace", lambda: cpu.sample_norm_workspace(1)),
        ("levels", lambda: cpu.levels(1)),
    ],
)
def test_wrong_counts_and_kinds_are_refused(function, call):
    with pytest.raises(TypeError, match=rf"^{function}\(\): incompatible function arguments"):
        call()


@pytest.mark.parametrize("wrong", [(1, 2), (1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, None), 6])
def test_an_axis_has_six_sizes(wrong):
    axis = (1, 1, 1, 1, 1, 0)
    for axes in ((wrong, axis), (axis, wrong)):
        with pytest.raises(TypeError, match=re.escape("arg6: Annotated[Sequence[int], FixedSize(6)]")):
            cpu.upfirdn2d(0, 0, 0, 0, 1, 1, *axes, False, 1.0, 1, 0, False, 0, 1, 0, 0.0, 1.0, 0.0, 1)


def test_a_list_says_what_it_must_be():
    with pytest.raises(TypeError, match=re.escape("(arg0: Sequence[int], arg1: Sequence[int]) -> int")):
        cpu.spectral_norm_workspace(3, [1])
    assert cpu.spectral_norm_workspace([3, 4], (5, 6)) == cpu.spectral_norm_workspace((3, 4), [5, 6]) > 0


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
    """The GIL is released: another thread goes on, where Python changes threads for no other reason."""
    x, y = torch.ones(4, 1 << 20), torch.empty(4)
    workspace = torch.empty(cpu.sample_norm_workspace(*x.shape), dtype=torch.float64)
    arguments = (x.data_ptr(), y.data_ptr(), workspace.data_ptr(), *x.shape, True, 1, 1)
    stopped, finished = threading.Event(), False

    def run():
        nonlocal finished
        for _ in range(2000):
            cpu.sample_norm(*arguments)
            if stopped.is_set():
                return
        finished = True

    thread, interval = threading.Thread(target=run), sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()  # waits for the thread to begin, and then for the GIL
        went_on = not finished
    finally:
        sys.setswitchinterval(interval)
        stopped.set()
        thread.join()
    assert went_on
    assert y.tolist() == [1 << 20] * 4


def test_functions_know_their_module_and_name():
    run = _native._compiled("bias_act", torch.device("cpu"))
    assert run is cpu.bias_act
    assert run.__name__ == "bias_act"
    assert run.__module__.endswith("_C.cpu")
