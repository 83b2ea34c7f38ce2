"""The emulator of tests/cuda_emulator itself: what it computes, and that it reports every kind of mistake it is for."""

import ctypes
import re

import pytest
import torch

from fastgan import _native

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kernels(emulated_extension):
    """A function of kernels.cu, called by its name: returns the error, or an empty text."""
    library = ctypes.CDLL(emulated_extension.__file__)

    def run(name, *arguments):
        function = getattr(library, f"emulator_{name}")
        function.restype = ctypes.c_char_p
        pointers = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a for a in arguments]
        return function(*pointers).decode()

    return run


# --- what a GPU computes ---


def test_every_thread_of_every_block_runs_once(kernels):
    counts = torch.zeros(2 * 3 * 4 * 4 * 3 * 2, dtype=torch.int32)
    assert kernels("places", counts) == ""
    assert counts.eq(1).all()


def test_shuffles(kernels):
    x = torch.full((132,), -1.0)
    assert kernels("shuffles", x) == ""
    lane = torch.arange(32)
    segment, place = lane // 8 * 8, lane % 8
    expected = [
        segment + 3,
        torch.where(place >= 3, lane - 3, lane),
        torch.where(place < 5, lane + 3, lane),
        torch.where((lane ^ 12) < segment + 8, lane ^ 12, lane),
        torch.tensor([29, 28, 31, 30]),
    ]
    assert torch.equal(x, torch.cat(expected).float())


def test_conversions_round_as_torch_does(emulated_extension):
    halves = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    exact = torch.cat([halves.view(torch.float16).float(), halves.view(torch.bfloat16).float()])
    # Every value of either type, what is half way to the next, and what is next to that.
    bits = exact.view(torch.int32)
    between = [bits + step + beside for step in (1 << 12, 1 << 15) for beside in (-1, 0, 1)]
    x = torch.cat([bits, *between]).view(torch.float32)
    subnormal = torch.arange(-4096, 4096) * 2.0**-26
    x = torch.cat([x, subnormal, torch.tensor([65519.9, 65520.0, -65520.0, float("inf")])])
    outputs = torch.empty_like(x), torch.empty_like(x)
    library = ctypes.CDLL(emulated_extension.__file__)
    addresses = [ctypes.c_void_p(t.data_ptr()) for t in (x, *outputs)]
    library.emulator_round_trips(addresses[0], x.numel(), *addresses[1:])
    for ours, dtype in zip(outputs, (torch.bfloat16, torch.float16), strict=True):
        torch.testing.assert_close(ours, x.to(dtype).float(), rtol=0, atol=0, equal_nan=True)


# --- races ---


def reversed_at(kernels, monkeypatch, seed, wait):
    monkeypatch.setenv("CUDA_EMULATOR_SEED", str(seed))
    x = torch.arange(256.0)
    assert kernels("reverse", x, wait) == ""
    return x


def test_a_missing_barrier_gives_wrong_and_varying_results(kernels, monkeypatch):
    truth = torch.arange(256.0).view(4, 64).flip(1).flatten()
    assert all(torch.equal(reversed_at(kernels, monkeypatch, seed, True), truth) for seed in range(5))
    raced = [reversed_at(kernels, monkeypatch, seed, False) for seed in range(5)]
    assert not any(torch.equal(x, truth) for x in raced)
    assert not any(torch.equal(x, raced[0]) for x in raced[1:])


def test_a_seed_fixes_the_order(kernels, monkeypatch):
    # A race reads what the launch before left in shared memory, too: that is the same for the last two of three.
    _, first, second = (reversed_at(kernels, monkeypatch, 3, False) for _ in range(3))
    assert torch.equal(first, second)


# --- mistakes ---


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unmet_barrier", "24 threads at the end, 40 threads at __syncthreads of line"),
        ("two_barriers", "40 threads at __syncthreads of line .*, 24 threads at __syncthreads of line"),
        ("unmet_shuffle", "56 threads at the end, 8 threads at a shuffle of line"),
    ],
)
def test_threads_that_do_not_meet(kernels, name, message):
    arguments = [torch.zeros(64)] if name == "unmet_shuffle" else []
    assert re.search(rf"block \(0, 0, 0\): its threads do not meet: {message}", kernels(name, *arguments))


def test_shuffle_from_a_lane_outside_the_mask(kernels):
    assert re.search(r"lane \d shuffles from lane 4, .* the mask 0xf", kernels("shuffle_from_outside", torch.zeros(32)))


@pytest.mark.parametrize(("name", "values"), [("copy16", 4), ("copy8", 2)])
def test_misaligned_addresses(kernels, name, values):
    source, target = torch.ones(12), torch.zeros(12)
    assert source.data_ptr() % 16 == target.data_ptr() % 16 == 0
    assert kernels(name, source[values:], target[values:]) == ""
    assert target.sum() == values
    for arguments in ((source[1:], target), (source, target[1:])):
        assert re.search(r"kernels.cu:\d+: misaligned address .* of type .*uint", kernels(name, *arguments))


def test_null_pointer(kernels):
    assert re.search(r"kernels.cu:\d+: null address", kernels("beyond_array", None, 0))


def test_index_beyond_an_array(kernels):
    x = torch.ones(1)
    assert kernels("beyond_array", x, 7) == ""
    assert "index 8 beyond an array of type 'float [8]'" in kernels("beyond_array", x, 8)
    assert "index -1 beyond an array" in kernels("beyond_array", x, -1)


def test_dynamic_shared_memory(kernels):
    x = torch.zeros(1)
    assert kernels("fill_shared", x, 16) == ""
    assert x.isnan()  # in the second block too
    assert "wrote beyond its 64 bytes of dynamic shared memory" in kernels("fill_shared", x, 17)


def test_limits_of_a_launch(kernels):
    def launch(grid=1, block=1, depth=1, shared=0, allowed=0):
        return kernels("launch", grid, block, depth, shared, allowed)

    assert launch(block=1024) == launch(block=16, depth=64) == launch(shared=48 << 10) == ""
    assert launch(shared=227 << 10, allowed=227 << 10) == ""
    assert "1025 x 1 x 1 threads: a block has 1 to 1024" in launch(block=1025)
    assert "1 x 1 x 65 threads" in launch(depth=65)
    assert "0 x 1 x 1 threads" in launch(block=0)
    assert "a grid of 0 x 1 x 1 blocks" in launch(grid=0)
    assert "49153 bytes of dynamic shared memory: the kernel was allowed 49152" in launch(shared=(48 << 10) + 1)
    assert "232449 bytes of dynamic shared memory: a block has 232448 at most" in launch(allowed=(227 << 10) + 1)
    assert "4097 bytes of parameters: a kernel takes 4096" in kernels("many_parameters")


def test_the_next_launch_is_sound(kernels):
    assert kernels("unmet_barrier")
    x = torch.arange(256.0)
    assert kernels("reverse", x, True) == ""
    assert torch.equal(x, torch.arange(256.0).view(4, 64).flip(1).flatten())


def test_an_error_is_a_python_exception(emulated_cuda):
    one = [torch.ones(1) for _ in range(6)]
    workspace = torch.zeros(emulated_cuda.spectral_norm_workspace([1], [1]) + 1)
    addresses = [[t.data_ptr()] for t in one]
    sigma = torch.zeros(1)
    options = (1, 1e-12, True, 1, 1, 0)  # iterations, eps, u_first, dtype, out_dtype, stream

    def run(workspace):
        arguments = (*addresses, [1], [1], sigma.data_ptr(), workspace.data_ptr(), *options)
        emulated_cuda.spectral_norm_forward(*arguments)

    run(workspace)
    assert sigma == 1
    with pytest.raises(RuntimeError, match=r"CUDA launch: .* misaligned address .* of type 'double'"):
        run(workspace[1:])


def test_emulated_kernels_take_the_place_of_the_cpus(request):
    """Also where those have been called before: what was looked up is not remembered."""
    device = torch.device("cpu")
    before = _native._compiled("bias_act", device)
    emulated = request.getfixturevalue("emulated_cuda")
    assert _native._compiled("bias_act", device) is emulated.bias_act
    assert before is not emulated.bias_act
