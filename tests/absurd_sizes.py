"""Every op and layer with sizes that no tensor has: python absurd_sizes.py. Each call returns or raises; none crashes.

A line is printed before each call, so that the last one of a process that died says which it was.
"""

import inspect
import itertools
import resource
import sys

import torch

from fastgan import functional, nn
from fastgan.check import describe
from first_calls import first_call
from public_ops import FUNCTIONS

GIB = 1 << 30
resource.setrlimit(resource.RLIMIT_AS, (6 * GIB, 6 * GIB))  # what asks for more gets an error, and no swap
torch.set_num_threads(1)

ABSURD = [2**29, 2**29 + 1, 2**31 - 1, 2**31, 2**32 + 1, 2**61, 2**62, 2**63 - 1, 2**63, 2**64, 10**5000]
ABSURD += [-value for value in ABSURD]

X1, X2, X3 = (torch.ones(1, 4, *[3] * n) for n in (1, 2, 3))
W1, W2, W3 = (torch.ones(4, 4, *[3] * n) for n in (1, 2, 3))
FIR = functional.setup_filter([1, 3, 3, 1])


def resampling():
    """upfirdn2d and its relatives: any of the sizes, one at a time and together."""
    for f in (FIR, FIR[0], None):
        for value in ABSURD:
            for options in (
                {"padding": value}, {"padding": [value, 0]}, {"padding": [0, value, -value, 0]}, {"up": value},
                {"down": value}, {"up": value, "down": value}, {"padding": value, "down": value},
                {"padding": value, "down": [value, 1]}, {"padding": [0, 0, value, 0], "down": [1, 1000003]},
                {"up": [value, 1]}, {"up": value, "padding": [-value, 0]},
                {"up": value, "down": value, "padding": value}, {"up": [value, 1], "padding": [0, 4 - value * 3, 0, 0]},
            ):  # fmt: skip
                yield "upfirdn2d", options, lambda f=f, o=options: functional.upfirdn2d(X2, f, **o)
                yield "upfirdn2d_bias_act", options, lambda f=f, o=options: functional.upfirdn2d_bias_act(X2, f, **o)
        # The registered op is not for users; nor does it crash.
        for up, down, padding in itertools.product((1, value), repeat=3):
            options = [up] * 2, [down] * 2, [padding] * 4, False, 1.0
            yield "torch.ops", options, lambda o=options: torch.ops.fastgan.upfirdn2d(X2, FIR, *o)
    for value in ABSURD:
        for padding in (0, value):
            yield "filter2d", (value, padding), lambda v=value: functional.filter2d(X2, FIR, v)
            yield "upsample2d", (value, padding), lambda v=value, p=padding: functional.upsample2d(X2, FIR, v, p)
            yield "downsample2d", (value, padding), lambda v=value, p=padding: functional.downsample2d(X2, FIR, v, p)
            yield "upfirdn1d", (value, padding), lambda v=value, p=padding: functional.upfirdn1d(X1, None, v, v, p)
        yield "Upsample2d", value, lambda v=value: nn.Upsample2d(up=v)(X2)
        yield "Downsample2d", value, lambda v=value: nn.Downsample2d(down=v)(X2)
        yield "Filter2d", value, lambda v=value: nn.Filter2d(padding=v)(X2)


def convolutions():
    """With and without resampling, and the layers."""
    for n, (x, w) in enumerate(((X1, W1), (X2, W2), (X3, W3)), 1):
        alone = [("stride",), ("padding",), ("dilation",), ("groups",), ("output_padding",), ("padding", "dilation")]
        for value, names in itertools.product(ABSURD, alone):
            options = dict.fromkeys(names, value)
            for name in (f"conv{n}d", f"conv_transpose{n}d"):
                if name.startswith("conv_transpose") or "output_padding" not in names:
                    f = getattr(functional, name)
                    yield name, options, lambda f=f, x=x, w=w, o=options: f(x, w, **o)
        several = [("scale_factor",), ("padding",), ("dilation",), ("groups",), ("scale_factor", "padding")]
        for value, names in itertools.product(ABSURD, [*several, ("dilation", "padding")]):
            options = dict.fromkeys(names, value)
            for name in (f"upsample_conv{n}d", f"conv_downsample{n}d"):
                f = getattr(functional, name)
                yield name, options, lambda f=f, x=x, w=w, o=options: f(x, w, **o)
                if n == 2:
                    yield name, options, lambda f=f, x=x, w=w, o=options: f(x, w, mode="fir", fir=FIR, **o)
            for layer in (f"UpsampleConv{n}d", f"ConvDownsample{n}d"):
                yield layer, options, lambda t=layer, x=x, o=options: getattr(nn, t)(4, 4, 3, **o)(x)


def integers():
    """Every integer of every public function, by itself and all together."""
    for name in FUNCTIONS:
        function, good = first_call(name)
        names = [key for key, it in inspect.signature(function).parameters.items() if "int" in str(it.annotation)]
        for value, changed in itertools.product(ABSURD, [*([key] for key in names), names]):
            if "n_power_iterations" in changed and 0 < value < 2**31:
                continue  # so many iterations are allowed
            options = {**good, **dict.fromkeys(changed, value)}
            yield name, dict.fromkeys(changed, value), lambda f=function, o=options: f(**o)
    for value in ABSURD:
        yield "PixelShuffleUpsample", value, lambda v=value: nn.PixelShuffleUpsample(4, 4, 3, v)(X2)


def empty_tensors():
    """Without a number, the other sizes may be of any magnitude."""
    for a, b in itertools.product([0, 2**31, 2**45, 2**61], repeat=2):
        for shape in ((0, a, b), (a, 0, b), (a, b, 0), (0, a, b, 1), (a, 0, b, 1), (a, 0, 1, b), (0, a, 1, b)):
            try:
                x = torch.empty(shape)
            except RuntimeError:  # torch has no such tensor
                continue
            c = torch.empty(0).expand(0) if shape[1] == 0 else torch.ones(1).expand(shape[1])
            eps = torch.ones(1).expand(shape[0]) if shape[0] else torch.empty(0)
            yield "bias_act", shape, lambda x=x, c=c: functional.bias_act(x, c if x.shape[1] == 0 else None, 1)
            yield "scale_shift_act", shape, lambda x=x: functional.scale_shift_act(x, None, None)
            yield "norm_act", shape, lambda x=x: functional.norm_act(x)
            yield "norm_act", shape, lambda x=x: functional.norm_act(x, norm="instance")
            yield "sample_norm", shape, lambda x=x: functional.sample_norm(x)
            yield "scale_samples", shape, lambda x=x, eps=eps: functional.scale_samples(x, eps)
            yield "interpolate", shape, lambda x=x, eps=eps: functional.interpolate(x, x, eps)
            yield "upfirdn2d", shape, lambda x=x: functional.upfirdn2d(x, FIR, 2, padding=2)
            yield "pixel_shuffle_act", shape, lambda x=x: functional.pixel_shuffle_act(x)
            yield "minibatch_stddev", shape, lambda x=x: functional.minibatch_stddev(x)
            yield "upsample_conv2d", shape, lambda x=x: functional.upsample_conv2d(x, W2)


if __name__ == "__main__":
    for name, arguments, call in itertools.chain(resampling(), convolutions(), integers(), empty_tensors()):
        sys.stdout.write(f"{name} {describe(arguments)}\n")
        sys.stdout.flush()
        try:
            call()
        except (TypeError, ValueError, RuntimeError, MemoryError, OverflowError, IndexError) as error:
            sys.stdout.write(f"   {type(error).__name__}: {str(error).splitlines()[0][:200]}\n")
    sys.stdout.write("none crashed\n")
