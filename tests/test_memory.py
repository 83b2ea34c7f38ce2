"""Outputs on the CPU are stored on pages that nothing holds any more."""

import ctypes
import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fastgan import check, memory

CPU = torch.device("cpu")
SHAPE = (1024, 1024)


@pytest.fixture(autouse=True)
def empty_pool():
    """No pages kept from other tests."""
    gc.collect()
    memory.empty_cache()
    yield
    memory.empty_cache()


def block():
    return memory.empty(SHAPE, torch.float32, CPU)


def test_pages_come_back_when_the_last_holder_is_gone():
    first = block()
    address, view = first.data_ptr(), first[3:5]
    del first
    assert block().data_ptr() != address  # the view still holds them
    del view
    assert block().data_ptr() == address


def test_a_saved_tensor_keeps_its_pages():
    x = torch.ones(SHAPE, requires_grad=True)
    out = block().fill_(3.0)
    y = (x * out).sum()
    del out
    others = [block().fill_(7.0) for _ in range(3)]
    y.backward()
    assert (x.grad == 3.0).all()
    assert len(others) == 3


def test_two_living_tensors_never_share():
    tensors = [block().fill_(i) for i in range(4)]
    assert all((t == i).all() for i, t in enumerate(tensors))


def test_small_tensors_are_torchs():
    before = memory.kept_bytes()
    memory.empty((10, 10), torch.float32, CPU)
    assert memory.kept_bytes() == before


def test_an_output_is_an_ordinary_tensor():
    out = block()
    assert out.is_contiguous()
    assert not out._is_view()
    assert out.requires_grad_().grad_fn is None


def test_empty_cache_returns_what_is_free_and_only_that():
    held, gone = block(), block()
    size = held.numel() * 4
    del gone
    assert memory.kept_bytes() == {"free": size, "used": size}
    memory.empty_cache()
    assert memory.kept_bytes() == {"free": 0, "used": size}


def test_what_is_kept_for_nothing_stays_below_the_most_that_was_used():
    most = 0
    for size in range(1, 9):
        held = [memory.empty((1 << 16, size), torch.float32, CPU) for _ in range(3)]
        most = max(most, memory.kept_bytes()["used"])
        assert memory.kept_bytes()["free"] <= most
        del held


def test_blocks_of_two_sizes_in_turn():
    """As a workspace that is gone before the output comes: neither gives the other's pages back."""
    for _ in range(2):
        for size in (1 << 18, 1 << 20):
            memory.empty((size // 4,), torch.float32, CPU)
    assert memory.kept_bytes() == {"free": (1 << 18) + (1 << 20), "used": 0}


@pytest.mark.parametrize("shape", [(3, 512, 1024), (2, 3)], ids=["large", "small"])
@pytest.mark.parametrize("dtype", check.DTYPES, ids=str)
def test_dtypes_and_shapes(dtype, shape):
    out = memory.empty(shape, dtype, CPU)
    assert (out.shape, out.dtype) == (shape, dtype)
    assert out.is_contiguous()
    assert out.untyped_storage().nbytes() == out.numel() * dtype.itemsize
    strides = torch.empty((*shape[:-2], shape[-1], shape[-2])).mT.stride()
    turned = memory.empty_strided(shape, strides, dtype, CPU)
    for strided in (turned, memory.empty_like(turned, dtype)):
        assert (strided.shape, strided.dtype, strided.stride()) == (shape, dtype, turned.stride())
        assert strided.untyped_storage().nbytes() == out.numel() * dtype.itemsize
    assert memory.empty_like(turned, torch.float64).dtype == torch.float64


def test_a_tensor_that_dies_without_the_interpreter_lock_gives_its_pages_back():
    """As a saved tensor does on the thread that runs a backward."""
    x = torch.ones(SHAPE, requires_grad=True)
    y = (x * block().fill_(3.0)).sum()
    assert memory.kept_bytes()["used"] > 0
    y.backward()
    assert memory.kept_bytes()["used"] == 0


def test_what_nobody_takes_over_gives_its_pages_back():
    size = 1 << 20
    capsule = memory._blocks.empty_block((size // 4,), (), 2, 32, size)
    assert memory.kept_bytes() == {"free": 0, "used": size}
    del capsule
    assert memory.kept_bytes() == {"free": size, "used": 0}


def test_threads_that_make_and_drop_tensors():
    def work(value):
        for _ in range(200):
            tensors = [block().fill_(value), memory.empty((1 << 16,), torch.float64, CPU).fill_(value)]
            assert all((t == value).all() for t in tensors)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert memory.kept_bytes()["used"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_kept_makes_room_where_there_is_none():
    import resource

    del [block() for _ in range(16)][:]  # 64 MiB kept
    limits = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (16 << 20), limits[1]))
    try:
        large = memory.empty((36 << 20,), torch.bfloat16, CPU)  # 72 MiB
        with pytest.raises(RuntimeError, match="not enough memory: no room for"):
            memory.empty((1 << 30,), torch.float32, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert memory.kept_bytes() == {"free": 0, "used": large.nbytes}


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork, which Windows lacks")
def test_a_forked_process_does_not_write_into_its_parents_pages():
    out = block().fill_(3.0)
    child = os.fork()
    if child == 0:
        # Nothing of torch: its threads do not survive a fork.
        ctypes.memset(out.data_ptr(), 0, 4096)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (out == 3.0).all()
