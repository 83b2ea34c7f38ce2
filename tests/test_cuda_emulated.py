"""The CUDA kernels on the CPU: every path, for any number of multiprocessors, and without a race.

That they keep the contract of an op is in test_spectral_norm.py and the like, target "emulated". No GPU is needed: the
emulator runs the same source, and reports what a GPU would fault on; see tests/cuda_emulator/emulator.cpp.
"""

from importlib import import_module
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from samples import seeded
from torch.nn.functional import normalize

from fastgan import memory
from fastgan.reference import bias_act, interpolate, sample_norm, scale_samples, sum_channels
from fastgan.reference import spectral_norm as reference

pytestmark = pytest.mark.slow

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# As many threads read a row as can hold it: 8 of them a short one, a block up to 4096 numbers of float64, 14336 of
# float32 and 16384 of a half. Longer rows are read twice. The blocks that sum columns take several turns beyond 16384.
PATHS = {
    "tiny": [(1, 1), (1, 9), (7, 1), (5, 3), (9, 8)],
    "tall, in several blocks": [(700, 16), (3, 5), (331, 24)],
    "teams of several warps": [(40, 1152), (9, 513), (3, 2056), (3, 4096)],
    "whole block": [(2, 8193), (3, 13824)],
    "long": [(2, 16392), (2, 16391)],
    "two chunks": [(1 + i % 5, 1 + 3 * i % 11) for i in range(50)],
}
# training, u_first, n_power_iterations
MODES = {
    "u_first": (True, True, 1),
    "u_first_3": (True, True, 3),
    "v_first": (True, False, 1),
    "v_first_2": (True, False, 2),
    "eval": (False, True, 1),
}


@pytest.fixture(autouse=True)
def fenced(emulated_cuda, monkeypatch):
    """Outputs and workspace stand between fences, which the kernels must leave as they are."""
    fences = []

    def empty(shape, dtype, device=None):
        inside = torch.Size([shape] if isinstance(shape, int) else shape)
        numbers = torch.full((inside.numel() + 128,), 7, dtype=dtype)
        fences.extend([numbers[:64], numbers[64 + inside.numel() :]])
        return numbers[64 : 64 + inside.numel()].fill_(torch.nan).view(inside)

    monkeypatch.setattr(memory, "_blocks", None)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "empty_like", lambda like, dtype=None: empty(like.shape, dtype or like.dtype))
    yield
    assert fences
    assert all(fence.eq(7).all() for fence in fences)


def place(numbers, dtype, misaligned):
    """A copy between NaNs, at a multiple of 16 bytes or one value after it: what reads beyond it reads NaN."""
    before = 64 + misaligned
    storage = torch.full((before + numbers.numel() + 64,), torch.nan, dtype=dtype)
    assert storage.data_ptr() % 16 == 0
    return storage[before : before + numbers.numel()].view(numbers.shape).copy_(numbers)


def draw(shapes, dtype, misaligned=False):
    """Weights, and u and v near their singular vectors: elsewhere sigma is what cancellation leaves."""
    generator = seeded(0)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    vs = [normalize(w.sum(0) + w.T @ (w @ w.sum(0)), dim=0) for w in weights]
    us = [normalize(w @ v, dim=0) for w, v in zip(weights, vs, strict=True)]
    return [[place(numbers, dtype, misaligned) for numbers in list_] for list_ in (weights, us, vs)]


def double(tensors):
    return [t.double() for t in tensors]


def run(inputs, mode="u_first", out_dtype=None, grad_dtype=None, grad_sigmas=True, misaligned=False):
    """What the kernels return, what is true in float64, and how large its terms are.

    Of W_hat, u, v, sigma, and dW for the kernels' u, v, sigma.
    """
    from fastgan.native import spectral_norm as native  # not there in a pure-Python install

    weights, dtype = inputs[0], inputs[0][0].dtype
    training, u_first, iterations = MODES[mode]
    options = (iterations, 1e-12, training, u_first)
    ours = native.forward(*inputs, *options, out_dtype or dtype)
    truth = reference.forward(*map(double, inputs), *options, torch.float64)
    generator = seeded(1)
    grads = [torch.randn(w.shape, generator=generator) for w in weights]
    grads = [place(g, grad_dtype or out_dtype or dtype, misaligned) for g in grads]
    dsigmas = torch.randn(len(weights), generator=generator).to(ours[3].dtype) if grad_sigmas else None
    dws = native.backward(grads, dsigmas, weights, *ours[1:])
    exact = (double(grads), None if dsigmas is None else dsigmas.double(), *map(double, (weights, *ours[1:3])))
    terms = [[t.norm() for t in list_] for list_ in truth]
    # dW = (g - <g, W_hat> u v^T) / sigma + dsigma u v^T
    slopes = torch.zeros(len(weights)) if dsigmas is None else dsigmas.double().abs()
    norms = zip(double(grads), double(weights), ours[3].double(), slopes, strict=True)
    terms.append([g.norm() / sigma * (1 + w.norm() / sigma) + slope for g, w, sigma, slope in norms])
    return (*ours, dws), (*truth, reference.backward(*exact, ours[3].double())), terms


def check(inputs, **options):
    """One rounding to the dtype of the result, and what sums of n terms lose in the dtype that they are taken in."""
    computed_in = torch.finfo(torch.float64 if inputs[0][0].dtype == torch.float64 else torch.float32).eps
    for ours, truths, terms in zip(*run(inputs, **options), strict=True):
        for i, (got, truth, size) in enumerate(zip(ours, truths, terms, strict=True)):
            bound = 4 * inputs[0][i].numel() ** 0.5 * computed_in + torch.finfo(got.dtype).eps
            assert (got.double() - truth).norm() <= bound * size, (got.dtype, inputs[0][i].shape)


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_paths(path, dtype, misaligned):
    check(draw(PATHS[path], dtype, misaligned), mode="v_first_2" if misaligned else "u_first", misaligned=misaligned)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("multiprocessors", [1, 7, 132])
def test_modes_on_any_number_of_multiprocessors(monkeypatch, multiprocessors, mode):
    monkeypatch.setenv("CUDA_EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    shapes = [(33, 70), (3, 1100), (130, 17), (2, 4104)]
    check(draw(shapes, torch.float64), mode=mode, grad_sigmas=mode != "u_first")


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("grad_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype, out_dtype, grad_dtype, misaligned):
    inputs = draw([(6, 40), (3, 9)], dtype, misaligned)
    check(inputs, out_dtype=out_dtype, grad_dtype=grad_dtype, misaligned=misaligned)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_schedule_changes_no_bit(monkeypatch, dtype):
    """A barrier that is missing shows here, as a race."""
    inputs = draw([(33, 70), (130, 17), (9, 513), (40, 1152), (3, 4104)], dtype)
    results = []
    for seed in range(3):
        monkeypatch.setenv("CUDA_EMULATOR_SEED", str(seed))
        results.append(list(chain(*run(inputs, mode="v_first_2")[0])))
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_numbers_stay_in_their_layer(bad):
    inputs = draw([(33, 70), (5, 9), (3, 4104), (4, 8)], torch.float64)
    for sick in range(4):
        weights = [w.clone() for w in inputs[0]]
        weights[sick][2, 5] = bad
        ours, *_ = run([weights, *inputs[1:]])
        for results in ours:
            assert [bool(result.isfinite().all()) for result in results] == [i != sick for i in range(4)]


# --- samples ---

# For a thread, some lanes, a warp, a block, several blocks; of whole packets and not; more than a block takes.
BATCHES = [(1, 1), (600, 3), (70, 8), (33, 40), (9, 257), (3, 1024), (2, 1025), (3, 4104), (2, 20001), (1, 20000)]


def run_samples(shape, dtype, misaligned=False):
    """What the kernels return, and what is true in float64."""
    native = SimpleNamespace(
        **{  # not there in a pure-Python install
            stem: import_module(f"fastgan.native.{stem}") for stem in ("interpolate", "sample_norm", "scale_samples")
        }
    )
    generator = seeded(0)
    x, fake = (place(torch.randn(shape, generator=generator), dtype, misaligned) for _ in range(2))
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    c = place(torch.randn(shape[0], generator=generator), accumulated, misaligned)
    norms = native.sample_norm.forward(x, False)
    ours = [
        norms,
        native.sample_norm.forward(x, True),
        native.sample_norm.backward(c, x, norms),
        native.sample_norm.backward(c, x, None),
        native.scale_samples.forward(x, c),
        native.interpolate.forward(x, fake, c),
        *native.interpolate.backward(x, c),
    ]
    x, fake, c, norms = double([x, fake, c, norms])
    truths = [
        sample_norm.forward(x, False),
        sample_norm.forward(x, True),
        sample_norm.backward(c, x, norms),
        sample_norm.backward(c, x, None),
        scale_samples.forward(x, c),
        interpolate.forward(x, fake, c),
        *interpolate.backward(x, c),
    ]
    return ours, truths


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", BATCHES, ids=str)
def test_samples(shape, dtype, misaligned):
    for got, truth in zip(*run_samples(shape, dtype, misaligned), strict=True):
        # Terms are products of normal values, up to 5 each; 16 is what that is worth, of four roundings.
        bound = 16 * shape[1] ** 0.5 * torch.finfo(got.dtype).eps
        torch.testing.assert_close(got.double(), truth, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(33, 40), (3, 1025), (2, 20001)], ids=str)
def test_the_schedule_changes_no_bit_of_samples(monkeypatch, shape, dtype):
    results = []
    for seed in range(3):
        monkeypatch.setenv("CUDA_EMULATOR_SEED", str(seed))
        results.append(run_samples(shape, dtype)[0])
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))


# [outer, channels, inner]: packets in one channel, across several, of channels_last; a channel longer than a block.
TENSORS = [(3, 5, 64), (4, 24, 1), (70, 3, 1), (9, 16, 9), (5, 8, 2), (2, 3, 5000), (3, 2, 2051), (600, 64, 1)]


def run_channels(shape, dtype, act, misaligned=False):
    """What the kernels return, and what is true in float64."""
    native, native_sum = (import_module(f"fastgan.native.{stem}") for stem in ("bias_act", "sum_channels"))
    generator = seeded(0)
    x, dy, ddx = (place(torch.randn(shape, generator=generator), dtype, misaligned) for _ in range(3))
    accumulated = torch.float64 if dtype == torch.float64 else torch.float32
    b = place(torch.randn(shape[1], generator=generator), accumulated, misaligned)
    spec = 1, act, 0.2, 1.25, 0.75
    ours = [native.forward(x, b, *spec), native.gradient(dy, x, b, False, *spec)]
    ours += [native.second(ddx, dy, x, b, False, *spec), native_sum.forward(x, 1)]
    x, dy, ddx, b = double([x, dy, ddx, b])
    truths = [bias_act.forward(x, b, *spec), bias_act.gradient(dy, x, b, False, *spec)]
    truths += [bias_act.second(ddx, dy, x, b, False, *spec), sum_channels.forward(x, 1)]
    return ours, truths


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", TENSORS, ids=str)
def test_channels(shape, dtype, misaligned):
    ours, truths = run_channels(shape, dtype, "swish", misaligned)
    for got, truth in zip(ours, truths, strict=True):
        eps = torch.finfo(got.dtype).eps
        bound = 64 * eps if got.ndim > 1 else 16 * (shape[0] * shape[2]) ** 0.5 * eps
        torch.testing.assert_close(got.double(), truth, rtol=bound, atol=bound)


@pytest.mark.parametrize("shape", [(600, 64, 1), (2, 3, 5000), (9, 16, 9)], ids=str)
def test_the_schedule_changes_no_bit_of_channels(monkeypatch, shape):
    results = []
    for seed in range(3):
        monkeypatch.setenv("CUDA_EMULATOR_SEED", str(seed))
        results.append(run_channels(shape, torch.float32, "lrelu")[0])
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))
