"""Spectral norm in CUDA C++ on a GPU: its boundaries of shape, streams, graphs, matrices of more than 2^31 values."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from fastgan import backends
from fastgan.reference import spectral_norm as reference

REASON = "no CUDA device" if not torch.cuda.is_available() else backends.available()["cuda"].reason
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Every size of team; rows that are not made of whole packets; the longest rows that registers hold, and longer ones.
SHAPES = [
    (1, 1),
    (7, 1),
    (1, 9),
    (64, 27),
    (600, 20),
    (130, 257),
    (128, 1152),
    (24, 513),
    (70, 4096),
    (9, 4104),
    (16, 13824),
    (9, 14336),
    (5, 14344),
    (12, 16384),
    (6, 16385),
    (3, 40000),
]
MANY_SHAPES = [(i % 70 + 1, 31 * i + 1) for i in range(100)]


@pytest.fixture
def native():
    """The backend's module, imported only where it can run."""
    from fastgan.native import spectral_norm

    return spectral_norm


def draw(shapes, dtype, misaligned=False, seed=0):
    """Weights, and u and v as in training: near the singular vectors, so that no sigma is what cancellation left over.

    Misaligned tensors start one number after a boundary of 16 bytes.
    """
    generator = torch.Generator("cuda").manual_seed(seed)

    def tensor(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cuda")

    def place(values):
        storage = torch.empty(values.numel() + 1, dtype=dtype, device="cuda")
        return storage[int(misaligned) :][: values.numel()].view(values.shape).copy_(values)

    weights, us, vs = [tensor(m, n) for m, n in shapes], [tensor(m) for m, _ in shapes], [tensor(n) for _, n in shapes]
    _, us, vs, _ = reference.forward(weights, us, vs, 3, 1e-12, True, True, torch.float64)
    return [[place(values) for values in tensors] for tensors in (weights, us, vs)]


def draw_grads(weights, dtype):
    return [torch.randn_like(w, dtype=torch.float32).to(dtype) for w in weights]


def double(tensors):
    return [t.double() for t in tensors]


def assert_as_exact(ours, torchs, truths, dtype):
    """Mean over the layers: err(ours) <= 2 err(torch) + one rounding; in float64 a bound by the size."""

    def error(result, truth):
        # A matrix [1, 1] has no gradient: what is left of it is rounding.
        return ((result.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-3)).item()

    def mean(results):
        return sum(map(error, results, truths)) / len(truths)

    eps = torch.finfo(ours[0].dtype).eps
    largest = max(truth.numel() for truth in truths)
    bound = 4 * math.sqrt(largest) * eps if dtype == torch.float64 else 2 * mean(torchs) + eps
    assert mean(ours) <= bound


def assert_forward_and_backward(native, inputs, iterations, u_first, out_dtype, grad_dtype, with_grad_sigmas=True):
    """Compare both directions with the definition in float64, and with the definition in the same dtype."""
    weights, us, vs = inputs
    dtype = weights[0].dtype
    options = (max(iterations, 1), 1e-12, iterations > 0, u_first)
    ours = native.forward(*inputs, *options, out_dtype)
    torchs = reference.forward(*inputs, *options, out_dtype)
    truths = reference.forward(*map(double, inputs), *options, torch.float64)
    for got, plain, truth in zip(ours, torchs, truths, strict=True):
        assert_as_exact(list(got), list(plain), list(truth), dtype)
    _, us, vs, sigmas = ours
    grads = draw_grads(weights, grad_dtype)
    grad_sigmas = torch.randn_like(sigmas) if with_grad_sigmas else None
    ours = native.backward(grads, grad_sigmas, weights, us, vs, sigmas)
    torchs = reference.backward(grads, grad_sigmas, weights, us, vs, sigmas)
    grad_sigmas = None if grad_sigmas is None else grad_sigmas.double()
    truths = reference.backward(double(grads), grad_sigmas, *map(double, (weights, us, vs)), sigmas.double())
    assert_as_exact(ours, torchs, truths, dtype)


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("u_first", [True, False])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_agrees_with_float64(native, iterations, u_first, dtype, misaligned):
    inputs = draw(SHAPES, dtype, misaligned)
    assert_forward_and_backward(native, inputs, iterations, u_first, dtype, dtype, with_grad_sigmas=u_first)


@pytest.mark.parametrize("other", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_any_dtype_and_takes_gradients_of_any(native, dtype, other):
    assert_forward_and_backward(native, draw(SHAPES, dtype), 1, True, other, other)


def test_more_layers_than_one_launch_takes(native):
    assert_forward_and_backward(native, draw(MANY_SHAPES, torch.float32), 1, True, torch.float32, torch.bfloat16)


def test_bit_for_bit_the_same_again(native):
    inputs = draw(SHAPES + MANY_SHAPES, torch.float32)
    grads = draw_grads(inputs[0], torch.float32)

    def run():
        weights, us, vs, sigmas = native.forward(*inputs, 2, 1e-12, True, True, torch.float32)
        return [*weights, *us, *vs, sigmas, *native.backward(grads, sigmas, inputs[0], us, vs, sigmas)]

    first = run()
    for _ in range(5):
        assert all(map(torch.equal, run(), first))


def test_nan_stays_in_its_layer(native):
    inputs = draw(SHAPES, torch.float32)
    inputs[0][3][2, 5] = math.nan
    weights, us, vs, sigmas = native.forward(*inputs, 1, 1e-12, True, True, torch.float32)
    for i in range(len(SHAPES)):
        finite = [bool(tensor.isfinite().all()) for tensor in (weights[i], us[i], vs[i], sigmas[i])]
        assert finite == [i != 3] * 4


@pytest.mark.parametrize("shapes", [[(128, 1152)] * 9, SHAPES + MANY_SHAPES], ids=["small", "large"])
def test_graph_replays_on_new_numbers(native, shapes):
    inputs = draw(shapes, torch.float32)
    grads = draw_grads(inputs[0], torch.float32)

    def run():
        weights, us, vs, sigmas = native.forward(*inputs, 1, 1e-12, True, True, torch.float32)
        return [*weights, *us, *vs, sigmas, *native.backward(grads, sigmas, inputs[0], us, vs, sigmas)]

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = run()
    for seed in (1, 2):
        for old, new in zip(inputs, draw(shapes, torch.float32, seed=seed), strict=True):
            torch._foreach_copy_(old, new)
        graph.replay()
        assert all(map(torch.equal, replayed, run()))


def test_runs_on_the_current_stream(native):
    """On another stream it would not wait for the new weights."""
    weights, us, vs = draw([(128, 1152), (16, 13824)], torch.float32)
    new, _, _ = draw([(128, 1152), (16, 13824)], torch.float32, seed=1)
    options = (1, 1e-12, True, True, torch.float32)
    expected = native.forward(new, us, vs, *options)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: about a tenth of a second
        torch._foreach_copy_(weights, new)
        got = native.forward(weights, us, vs, *options)
    stream.synchronize()
    assert all(
        torch.equal(a, b) for ours, truth in zip(got, expected, strict=True) for a, b in zip(ours, truth, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(523267, 4104), (65537, 32776), (65537, 32769)], ids=["held", "long", "odd"])
def test_matrix_of_more_than_2_to_the_31_numbers(native, shape):
    """Rows at the start, in the middle and at the end; what a sum over all rows gives is in sigma, u and v."""
    needed, free = 24 << 30, torch.cuda.mem_get_info()[0]
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of GPU memory; {free >> 30} are free")
    m, n = shape
    assert m * n > 2**31
    w = torch.empty(m, n, dtype=torch.bfloat16, device="cuda").normal_()
    u = normalize(torch.randn(m, device="cuda"), dim=0).bfloat16()
    v = normalize(torch.randn(n, device="cuda"), dim=0).bfloat16()

    def by_rows(f):
        return [f(slice(start, start + 8192)) for start in range(0, m, 8192)]

    (w_out,), (u_out,), (v_out,), sigmas = native.forward([w], [u], [v], 1, 1e-12, True, True, torch.bfloat16)
    t = normalize(torch.cat(by_rows(lambda rows: w[rows].double() @ v.double())), dim=0)
    p = sum(by_rows(lambda rows: w[rows].double().T @ t[rows]))
    torch.testing.assert_close(u_out.double(), t, rtol=0.01, atol=1e-6)
    torch.testing.assert_close(v_out.double(), normalize(p, dim=0), rtol=0.01, atol=1e-6)
    torch.testing.assert_close(sigmas[0].double(), p.norm(), rtol=1e-5, atol=0)
    (dw,) = native.backward([w], None, [w], [u_out], [v_out], sigmas)
    sigma = sigmas[0].double()
    coefficient = sum(by_rows(lambda rows: w[rows].double().square().sum())) / sigma
    for rows in (slice(0, 9), slice(m // 2, m // 2 + 9), slice(m - 9, m)):
        exact = w[rows].double()
        torch.testing.assert_close(w_out[rows].double(), exact / sigma, rtol=0.01, atol=1e-9)
        expected = (exact - coefficient * torch.outer(u_out[rows].double(), v_out.double())) / sigma
        torch.testing.assert_close(dw[rows].double(), expected, rtol=0.02, atol=1e-6)
