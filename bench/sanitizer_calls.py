"""Small calls of every GPU kernel, for compute-sanitizer: `python -m fastgan.bench.sanitizer_calls cuda [CALLS...]`.

Every dtype, order and mode, on odd, tiny and misaligned tensors, forward and backward. Tests compare; this only calls.
"""

import sys
from itertools import product

import torch

from fastgan import backend, functional

SHAPES = ((1, 1), (3, 130), (257, 5), (64, 24, 3, 3))
# Samples for one thread, for a warp, for a block, and for several blocks.
BATCHES = ((300, 3), (9, 8, 5, 5), (3, 2000), (2, 5, 41, 41))
# Channels outermost or innermost: of a packet and not, of a part of the positions and more.
IMAGES = ((3, 8, 2, 8), (2, 4, 5, 3), (2, 12, 41, 41), (3, 520, 3, 4))
# Filters that are compiled by themselves, any product, and no product; up, down.
RESAMPLINGS = (
    ((4,), 2, 1),
    ((4,), 1, 2),
    ((4,), 1, 1),
    ((12,), 2, 1),
    ((12,), 1, 2),
    ((5,), 3, 2),
    ((3, 4), [2, 1], 3),
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _on_device(shape: tuple[int, ...], dtype: torch.dtype, offset: int) -> torch.Tensor:
    """Random values that start `offset` elements into their storage."""
    # Made on the host: initcheck sees a copy write them, but not a kernel that it was told to leave out.
    values = torch.randn(offset + torch.Size(shape).numel()).to(dtype)
    return values.cuda()[offset:].view(shape)


def _spectral_norm() -> None:
    for dtype, order, training, offset in product(DTYPES, ("u_first", "v_first"), (True, False), (0, 1)):
        weights = [_on_device(shape, dtype, offset).requires_grad_() for shape in SHAPES]
        us = [_on_device((w.shape[0],), dtype, offset) for w in weights]
        vs = [_on_device((w[0].numel(),), dtype, offset) for w in weights]
        grads = [_on_device(shape, dtype, offset) for shape in SHAPES]
        result = functional.spectral_norm(weights, us, vs, n_power_iterations=2, order=order, training=training)
        torch.autograd.grad(result.weights, weights, grads)


def _samples() -> None:
    for dtype, shape, offset in product(DTYPES, BATCHES, (0, 1)):
        x, fake = (_on_device(shape, dtype, offset).requires_grad_() for _ in range(2))
        c = _on_device(shape[:1], torch.float64 if dtype == torch.float64 else torch.float32, offset)
        outputs = [functional.sample_norm(x, squared=squared) for squared in (True, False)]
        outputs += [functional.scale_samples(x, c), functional.interpolate(x, fake, c)]
        torch.autograd.grad(outputs, [x, fake], [_on_device(y.shape, y.dtype, offset) for y in outputs])


def _bias_act() -> None:
    for dtype, shape, offset, act in product(DTYPES, BATCHES, (0, 1), ("relu", "tanh", "gelu")):
        x, b = _on_device(shape, dtype, offset).requires_grad_(), _on_device(shape[1:2], dtype, offset).requires_grad_()
        dy = _on_device(shape, dtype, offset).requires_grad_()
        for layout in (x, x.transpose(1, -1).contiguous().transpose(1, -1)):
            y = functional.bias_act(layout, b, act=act, clamp=1)
            dx, _ = torch.autograd.grad(y, (x, b), dy, create_graph=True)
            torch.autograd.grad(dx, (dy, x) if act != "relu" else dy, dy.detach())


def _channels() -> None:
    for dtype, last, offset, shape in product(DTYPES, (False, True), (0, 1), IMAGES):
        x = _on_device(shape, dtype, offset).requires_grad_()
        y_shape = shape[0], shape[1] // 4, shape[2] * 2, shape[3] * 2
        image = x.to(memory_format=torch.channels_last) if last else x
        values = [_on_device(shape[:n], torch.float32, offset).requires_grad_() for n in (1, 2)]
        scale, shift = values[0][:1].expand(shape[1]), values[1]
        outputs = [functional.scale_shift_act(image, scale, shift), functional.norm_act(image, None, shift)]
        outputs += [functional.norm_act(image, norm="instance", act="gelu")]
        outputs += [functional.pixel_shuffle_act(image, act="tanh"), functional.minibatch_stddev(image, None)]
        appended = shape[0], shape[1] + 1, *shape[2:]
        grads = [_on_device(s, dtype, offset) for s in (shape, shape, shape, y_shape, appended)]
        torch.autograd.grad(outputs, [x, *values], grads)


def _upfirdn2d() -> None:
    for dtype, (taps, up, down), channels, offset in product(DTYPES, RESAMPLINGS, (1, 40), (0, 1)):
        image = _on_device((2, channels, 13, 70), dtype, offset).contiguous(memory_format=torch.channels_last)
        f = _on_device(taps, torch.float32, 0)
        y = functional.upfirdn2d(image.requires_grad_(), f, up, down, padding=6)
        torch.autograd.grad(y, image, torch.ones_like(y))


CALLS = {
    "spectral_norm": _spectral_norm,
    "samples": _samples,
    "bias_act": _bias_act,
    "channels": _channels,
    "upfirdn2d": _upfirdn2d,
}


def main(name: str, *calls: str) -> None:
    """Make the calls of these names, or all of them, on one backend."""
    for call in calls or CALLS:
        with backend(name):
            CALLS[call]()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
