"""Sizes that no tensor has are refused before they are computed with: in Python, and by the compiled code itself."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgan import _build_info, functional

HUGE = [2**57, 2**61, 2**63 - 1]


def test_no_call_crashes():
    script = Path(__file__).with_name("absurd_sizes.py")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert run.stdout.endswith("none crashed\n"), f"{run.returncode}: {run.stdout[-400:]} {run.stderr[-2000:]}"


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("up must be 536870912 or less, got int 2305843009213693952", {"up": 2**61, "down": 2**61}),
        ("x with up and padding would have the sizes", {"padding": 2**31 - 1, "down": 2**29}),
        ("up .* and padding .* make .* of x", {"padding": [2**30, 2**30, 0, 0], "down": 2**29}),
    ],
)
def test_the_argument_is_named(message, options):
    with pytest.raises((ValueError, RuntimeError), match=message):
        functional.upfirdn2d(torch.ones(1, 1, 4, 4), None, **options)


def test_far_padding_is_computed():
    """As far as one axis reaches: most outputs read nothing."""
    x, down = torch.arange(1.0, 17.0).view(1, 1, 4, 4), 2**28 + 1
    y = functional.upfirdn2d(x, functional.setup_filter([1, 3, 3, 1]), down=[down, 1], padding=[down, 2 * down, 0, 0])
    at_zero = functional.upfirdn2d(x, functional.setup_filter([1, 3, 3, 1]), padding=[0, 0, 0, 0])
    assert y.shape == (1, 1, 1, 4)
    assert y[0, 0, 0].tolist() == [0, at_zero[0, 0, 0, 0].item(), 0, 0]


@pytest.mark.skipif(bool(_build_info.REASON_CPU), reason="compiled code is missing")
@pytest.mark.parametrize("huge", HUGE)
def test_compiled_code_checks_for_itself(huge):
    from fastgan._C import cpu

    axis = (4, 4, 1, 1, 1, 0)
    none = (0, 0, 0, 0)

    def upfirdn2d(rows, planes=1):
        return cpu.upfirdn2d(*none, planes, 1, rows, axis, False, 1.0, 1, 0, False, 0, 1, 0, 0.0, 1.0, 0.0, 1)

    calls = [
        lambda: cpu.sample_norm_workspace(huge, 1),
        lambda: cpu.sample_norm_workspace(2**30, 2**30),
        lambda: cpu.sample_norm(0, 0, 0, 1, huge, False, 1, 1),
        lambda: cpu.scale_samples(*none, huge, 2, 1.0, 1, 1),
        lambda: cpu.interpolate(*none, -1, 2, 1, 1),
        lambda: cpu.interpolate_backward(*none, 0, huge, 1, 1),
        lambda: cpu.channel_workspace(2**20, 2**20, 2**20, True),
        lambda: cpu.norm_act_workspace(1, huge, 0, False),
        lambda: cpu.channel_statistics(*none, False, huge, 1, 1, False, 1, 1),
        lambda: cpu.sum_channels_workspace(huge, huge, huge),
        lambda: cpu.sum_channels(0, 0, 0, huge, 1, 1, 1, 1),
        lambda: cpu.bias_act(*none, 0, huge, 1, 1, 0, 0, 0.0, 1.0, 0.0, 1, 1),
        lambda: cpu.pixel_shuffle_act(*none, 16, 0, 0.0, 1, huge, 1, 1, False, 1, 1),
        lambda: cpu.pixel_shuffle_act(*none, huge, 0, 0.0, 1, 1, 1, 1, False, 1, 1),
        lambda: cpu.minibatch_stddev_workspace(4, huge, huge, 4, 1),
        lambda: cpu.minibatch_stddev(0, 0, 0, 0, 4, huge, 4, 4, 1, False, 1e-8, 1, 1),
        lambda: cpu.spectral_norm_workspace([2, huge], [2, 2]),
        lambda: upfirdn2d((huge, 4, 1, 1, 1, 0)),
        lambda: upfirdn2d((4, huge, 1, 1, 1, 0)),
        lambda: upfirdn2d((4, 4, huge, 1, 1, 0)),
        lambda: upfirdn2d((4, 4, 1, huge, 1, 0)),
        lambda: upfirdn2d((4, 4, 1, 1, huge, 0)),
        lambda: upfirdn2d((4, 4, 1, 1, 1, -huge)),
        lambda: upfirdn2d((4, 2**31 - 1, 1, 1, 2**29, 0)),
        lambda: upfirdn2d(axis, planes=huge),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"the sizes of|out of range|upscale_factor"):
            call()
