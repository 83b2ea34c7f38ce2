"""What the tests of the ops on a batch of samples share: shapes, layouts, and how exact a result has to be."""

import os
from contextlib import contextmanager
from math import log2

import torch

from fastgan import _build_info, backends

SEED = int(os.environ.get("FASTGAN_TEST_SEED", "0"))
SHIFT = 1000 * SEED  # of every seed in the tests, which are small
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def seeded(seed, device="cpu"):
    """A generator whose values FASTGAN_TEST_SEED changes, as it does those after torch.manual_seed."""
    return torch.Generator(device).manual_seed(seed + SHIFT)


def draw(shape, dtype=torch.float64, device="cpu", seed=0):
    """Random values, rounded to a dtype."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype).to(device)


def layouts(x):
    """Name -> a tensor [N, C, H, W] with the values of x in another layout."""
    wide = x.new_zeros(x.shape[0], 2 * x.shape[1], x.shape[2], 2 * x.shape[3])
    wide[:, ::2, :, ::2] = x
    flat = x.new_zeros(x.numel() + 1)
    flat[1:] = x.flatten()
    return {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "permuted": x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "batch_inside": x.transpose(0, 1).contiguous().transpose(0, 1),
        "sliced": wide[:, ::2, :, ::2],
        "misaligned": flat[1:].view_as(x),
        "expanded": x[:, :1].expand_as(x),
    }


def cpu_levels():
    """The x86-64 levels that can run here, the best one first."""
    if _build_info.REASON_CPU:
        return []
    from fastgan._C import cpu

    return cpu.levels()


@contextmanager
def cpu_level(name):
    """The CPU kernels of a level."""
    from fastgan._C import cpu

    cpu.use_level(name)
    try:
        yield
    finally:
        cpu.use_level(backends.environment().cpu_level)


@contextmanager
def number_of_threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same_bits_from_any_number_of_threads(run):
    """run() returns tensors; at every level they are the same whatever the number of threads."""

    def results(threads):
        with number_of_threads(threads):
            return run()

    for level in cpu_levels():
        with cpu_level(level):
            expected = results(1)
            for threads in (2, 7):
                for got, want in zip(results(threads), expected, strict=True):
                    assert torch.equal(got, want), (level, threads, got.shape)


# The most values that a kernel adds one after another in float32: csrc/cpu/channels.h takes 512 at a time, in four
# lanes or more, every other kernel fewer; sums of such runs are added in float64, or pairwise.
LONGEST_RUN = 128


def assert_as_exact(ours, torchs, truth, terms=None, n=1, computed_in=None):
    """err(ours) <= 2 err(torch) + one rounding of the result + the roundings of its n terms, whatever was drawn.

    Norms over all values. `terms` holds, for every value, the sum of the magnitudes of the terms that it is the sum of:
    what the op makes of absolute values. None is |truth|, where no two terms have different signs. `computed_in` is
    the dtype that terms are rounded to: float32 or better unless a kernel rounds what it keeps.

    A term that goes through k roundings of eps / 2 is off by up to k eps / 2 of itself. Their signs are independent, so
    that the errors add as a random walk does, and sqrt(k) eps of the terms are twice as many standard deviations as
    there are roundings of one size; for k <= 4 it is the largest error possible (Higham and Mary, A new approach to
    probabilistic rounding error analysis, 2019). k is the length of the longest run, the levels of the tree above it,
    and 4 for the product, the scale, the shift and the activation around the sum. In float64 there is no better truth:
    torch, whose sums may have n roundings, is as far from it as we are.
    """
    assert ours.shape == truth.shape
    assert ours.dtype == torchs.dtype

    def error(value):
        return (value.double().cpu() - truth).norm().item()

    n = max(n, 1)
    size, of_terms = truth.norm().item(), (truth if terms is None else terms).norm().item()
    eps = torch.finfo(computed_in or torch.promote_types(ours.dtype, torch.float32)).eps
    if ours.dtype == torch.float64:
        bound = 4 * (4 + n) ** 0.5 * eps * of_terms
    else:
        rounded = (4 + min(n, LONGEST_RUN) + log2(n)) ** 0.5 * eps * of_terms
        bound = 2 * error(torchs) + torch.finfo(ours.dtype).eps * size + rounded
    assert error(ours) <= bound, (ours.dtype, truth.shape, error(ours), bound)
