"""Which form a convolution with resampling takes: what the algebra allows, then what was measured to be fastest.

Without `autotune` it is a rule. On a CPU the rule is from the times of forward and backward in float32 on AVX2 cores;
on a GPU, where nothing was measured, it is one convolution with folded weights and nothing besides. With `autotune`
the forms are timed once for every kind of call.
"""

import time
from collections.abc import Callable
from math import prod
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastgan.autocast import autocast_dtype
from fastgan.convolution import resampled_forms
from fastgan.convolution.folded_weight import float32_is_exact
from fastgan.convolution.resampled_forms import FORMS, Geometry
from fastgan.filters import channels_inside
from fastgan.ops.op import is_traced
from fastgan.ops.upfirdn2d import MOST_TAPS

# The rule for CPUs, by the pixels of a batch of the smaller images and the pairs of an input and an output channel.
# Up to so many pixels times pairs, what is saved is less than what calls cost.
LEAST_WORK = 2**20
# "strided" has one pass over the large image: it pays after a sum over as many channels as these.
STRIDED_CHANNELS = 32
STRIDED_PIXELS = {True: 128, False: 32}  # by the direction: up and down
# "strided_channels_last" is that where oneDNN's convolutions are better at channels_last and matrix products at the
# gradient of the weight. With gradients, by whether x is channels_last anyway: the fewest pairs of channels, and the
# fewest pairs times pixels of an image, which has a share of zeros around it. Without, contiguous images, by direction.
LAST_PIXELS = 1024
LAST_PAIRS = {True: 2**11, False: 2**14}
LAST_IMAGE, LAST_WORK = 64, 2**22
LAST_PAIRS_OF_SMALL_IMAGES = 2**16
LAST_PAIRS_FORWARD = {True: 2**11, False: 2**15}
# Folded: nor may the transposed convolution have too few.
FOLDED_CHANNELS = {True: 16, False: 1}
FOLDED_PIXELS = 256
MOST_FOLDED = 2**12  # the matrix that folds has a column for every pixel of a block
# For few pixels and many pairs oneDNN's strided convolutions are slow, most of all their gradients for the weight: a
# matrix product and the sums of what overlaps are faster.
MATMUL_PAIRS = 2**16
MATMUL_TAPS = 9
# By whether gradients are wanted: the fewest pixels, and how many pairs there are for a pixel.
MATMUL_PIXELS = {True: 32, False: 64}
MATMUL_PAIRS_PER_PIXEL = {True: 256, False: 1024}
ROUNDS = 5


class ResamplingForm(NamedTuple):
    """A form's name and why it is the one."""

    name: str
    reason: str


def choose(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> ResamplingForm:
    """The form in which this call runs."""
    if found := _by_algebra(x, weight, g):
        return found
    # What is traced may have symbolic sizes, and what torch.func transforms shows those of one sample.
    if is_traced(x, weight) or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return ResamplingForm("folded", "a convolution of torch's, whatever the sizes: something traces or transforms")
    return _measured(x, weight, bias, g) if _autotune else _by_rule(x, weight, bias, g)


def autotune(enabled: bool = True) -> None:
    """Time the forms of convolutions with resampling once for every kind of call, and keep to the fastest.

    A kind is what decides about speed: shapes, dtype, memory format, device, threads, and whether a gradient is wanted.
    The first call of a kind takes as long as a dozen calls; which form wins may differ from run to run, and with it the
    rounding of results. What a compiler or torch.func traces, and what a CUDA graph captures, runs by the rule.

    Args:
        enabled: False to go back to the rule; what was measured is kept.
    """
    global _autotune
    _autotune = bool(enabled)


_autotune = False
_winners: dict[tuple, ResamplingForm] = {}


def _by_algebra(x: Tensor, weight: Tensor, g: Geometry) -> ResamplingForm | None:
    """The form where there is no choice."""
    kernel = weight.shape[2:]
    if x.numel() == 0 or weight.numel() == 0:
        return ResamplingForm("plain", "there is nothing to compute")
    if all(k == 1 for k in kernel) and not any(g.padding):
        return ResamplingForm("pointwise", "a 1x1 convolution commutes with resampling and runs on the smaller image")
    if g.fir is not None:
        name = "strided" if g.up else "plain"
        return ResamplingForm(name, "with a FIR filter the convolution is strided, whatever its arguments")
    if all(s == 1 for s in g.scale):
        return ResamplingForm("plain", "scale_factor is 1")
    if any(g.more_after):
        return ResamplingForm("plain", 'padding="same" of an even kernel is uneven')
    if max(g.scale) > MOST_FOLDED:
        return ResamplingForm("plain", f"scale_factor is more than {MOST_FOLDED}: folded weights would be as large")
    if any(d != 1 for d in g.dilation):
        return ResamplingForm("plain", "a dilated kernel does not fold")
    if g.up and any(p > k - 1 for p, k in zip(g.padding, kernel, strict=True)):
        return ResamplingForm("plain", "padding is more than the kernel's size - 1")
    return None


def _by_rule(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> ResamplingForm:
    if x.device.type != "cpu":
        return ResamplingForm("folded", "a convolution and nothing besides; not measured on this device, see autotune")
    pixels = x.shape[0] * prod(x.shape[2:] if g.up else g.output_size(x, weight))
    pairs, backward = weight.shape[0] * weight.shape[1], _wants_gradient(x, weight, bias)
    name = _fastest_on_cpu(x, weight, g, pixels, pairs, backward)
    size = f"{pixels} pixels (of the smaller batch) and {pairs} pairs of channels"
    return ResamplingForm(name, f"fastest on a CPU for {size}, {'with' if backward else 'without'} gradients")


def _fastest_on_cpu(x: Tensor, weight: Tensor, g: Geometry, pixels: int, pairs: int, backward: bool) -> str:
    products = prod(weight.shape[2:]) <= MATMUL_TAPS and _has_products(x, g)
    channels = weight.shape[1] if g.up else weight.shape[0] // g.groups
    last = products and channels >= STRIDED_CHANNELS and pixels >= LAST_PIXELS
    inside, image = channels_inside(x), pixels // x.shape[0]
    if last and not backward and not inside and pairs >= LAST_PAIRS_FORWARD[g.up]:
        return "strided_channels_last"
    if last and backward and pairs >= LAST_PAIRS[inside] and image >= LAST_IMAGE and pairs * image >= LAST_WORK:
        return "strided_channels_last"
    few = MATMUL_PIXELS[backward] <= pixels <= pairs / MATMUL_PAIRS_PER_PIXEL[backward]
    if few and pairs >= MATMUL_PAIRS and products:
        return "matmul"
    if last and backward and not inside and pairs >= LAST_PAIRS_OF_SMALL_IMAGES:
        return "strided_channels_last"
    if pixels * pairs <= LEAST_WORK:
        return "plain"
    if channels >= STRIDED_CHANNELS and pixels >= STRIDED_PIXELS[g.up] and _has_strided(g):
        return "strided"
    return "folded" if channels >= FOLDED_CHANNELS[g.up] and pixels >= FOLDED_PIXELS else "plain"


def _wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _has_strided(g: Geometry) -> bool:
    return len(g.scale) < 3 and max(g.scale) <= MOST_TAPS


def _has_products(x: Tensor, g: Geometry) -> bool:
    """Where it is as exact as a convolution, which sums in float32 and never rounds its inputs."""
    if len(g.scale) != 2 or g.groups != 1 or not _has_strided(g) or autocast_dtype(x.device.type):
        return False
    return x.dtype == torch.float64 or (x.dtype == torch.float32 and x.device.type == "cpu" and float32_is_exact())


# --- measured ---


def _measured(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry) -> ResamplingForm:
    backward = _wants_gradient(x, weight, bias)
    tensors = [(t.shape, t.stride(), t.dtype, t.device) for t in (x, weight)]
    kind = (*tensors, bias is None, g, backward, autocast_dtype(x.device.type), torch.get_num_threads())
    if kind not in _winners:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return _by_rule(x, weight, bias, g)
        _winners[kind] = _fastest(x, weight, bias, g, backward)
    return _winners[kind]


def _fastest(x: Tensor, weight: Tensor, bias: Tensor | None, g: Geometry, backward: bool) -> ResamplingForm:
    possible = {"pointwise": False, "strided": _has_strided(g)}
    possible |= dict.fromkeys(("strided_channels_last", "matmul"), _has_products(x, g))
    candidates = [name for name in FORMS[g.up, False] if possible.get(name, True)]
    with torch.inference_mode(False), torch.set_grad_enabled(backward):
        inputs = [None if t is None else t.detach().clone().requires_grad_(backward) for t in (x, weight, bias)]
        wanted = [t for t in inputs if t is not None]

        def call(name: str) -> None:
            y = resampled_forms.run(name, *inputs, g)
            if backward:
                torch.autograd.grad(y, wanted, torch.ones_like(y))

        seconds: dict[str, list[float]] = {name: [] for name in candidates}
        for i in range(ROUNDS + 1):
            for name in candidates:
                taken = _seconds(call, name, x.device)
                if i:  # the first is a warm-up
                    seconds[name].append(taken)
    medians = {name: median(taken) for name, taken in seconds.items()}
    best = min(medians, key=medians.__getitem__)
    listed = ", ".join(f"{name} {taken * 1e3:.3g} ms" for name, taken in medians.items())
    return ResamplingForm(best, f"measured: {listed}")


def _seconds(call: Callable[[str], None], name: str, device: torch.device) -> float:
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda _: None
    synchronize(device)
    start = time.perf_counter()
    call(name)
    synchronize(device)
    return time.perf_counter() - start
