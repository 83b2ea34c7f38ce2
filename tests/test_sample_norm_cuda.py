"""Ops on samples in CUDA C++ on a GPU: streams, graphs, batches of more than 2^31 values.

The contract of an op is in test_sample_norm.py and test_interpolate.py, target "cuda".
"""

import pytest
import torch

import fastgan
from fastgan import backends, functional

REASON = "no CUDA device" if not torch.cuda.is_available() else backends.available()["cuda"].reason
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]

SHAPES = [(64, 3, 32, 32), (4, 3, 256, 256), (10000, 3), (3, 100003)]


@pytest.fixture(params=["cuda", "triton"], autouse=True)
def backend(request):
    """What a GPU runs; both are one code to torch."""
    with fastgan.backend(request.param):
        yield request.param


def run(x, fake, c):
    x, fake = x.detach().requires_grad_(), fake.detach().requires_grad_()
    outputs = [functional.sample_norm(x), functional.sample_norm(x, squared=True)]
    outputs += [functional.scale_samples(x, c), functional.interpolate(x, fake, c)]
    gradients = [torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)[0] for y in outputs]
    gradients += torch.autograd.grad(outputs[-1], [x, fake], torch.ones_like(x))
    return [*(y.detach() for y in outputs), *gradients]


def draw(shape, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    x, fake = (torch.randn(shape, generator=generator, device="cuda") for _ in range(2))
    return x, fake, torch.rand(shape[0], generator=generator, device="cuda")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bit_for_bit_the_same_again(shape):
    inputs = draw(shape)
    first = run(*inputs)
    for _ in range(5):
        assert all(map(torch.equal, run(*inputs), first))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_graph_replays_on_new_numbers(shape):
    inputs = draw(shape)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(*inputs)  # Triton compiles at the first call
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = run(*inputs)
    for old, new in zip(inputs, draw(shape, seed=1), strict=True):
        old.copy_(new)
    graph.replay()
    assert all(map(torch.equal, replayed, run(*inputs)))


def test_runs_on_the_current_stream():
    """On another stream it would not wait for the new values."""
    inputs, new = draw((64, 3, 32, 32)), draw((64, 3, 32, 32), seed=1)
    expected = run(*new)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # cycles: about a tenth of a second
        torch._foreach_copy_(list(inputs), list(new))
        got = run(*inputs)
    stream.synchronize()
    assert all(map(torch.equal, got, expected))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2**31 + 4096 + 3), (3, 2**30), (2**29, 5)], ids=str)
def test_more_than_2_to_the_31_numbers(shape):
    """Samples at the start and at the end, and what a sum over all of a sample gives."""
    needed, free = 40 << 30, torch.cuda.mem_get_info()[0]
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of GPU memory; {free >> 30} are free")
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_().requires_grad_()
    c = torch.rand(shape[0], device="cuda")
    y = functional.sample_norm(x, squared=True)
    for n in (0, shape[0] - 1):
        exact = sum(part.double().square().sum() for part in x.detach()[n].split(1 << 27))
        torch.testing.assert_close(y.detach()[n].double(), exact, rtol=1e-5, atol=0)
    mixed, scaled = functional.interpolate(x, x, c).detach(), functional.scale_samples(x.detach(), c)
    (dx,) = torch.autograd.grad(y, x, c)
    ends = (slice(0, 9), slice(-9, None))
    for n in (0, shape[0] - 1):
        for end in ends:
            exact = x.detach()[n, end].float()
            torch.testing.assert_close(mixed[n, end].float(), exact, rtol=0.01, atol=1e-6)
            torch.testing.assert_close(scaled[n, end].float(), c[n] * exact, rtol=0.01, atol=1e-6)
            torch.testing.assert_close(dx[n, end].float(), 2 * c[n] * exact, rtol=0.01, atol=1e-6)
