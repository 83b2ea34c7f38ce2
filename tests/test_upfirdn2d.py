"""FIR resampling: beside the formula written as loops and scipy; the contract of an op is in contract/."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import DTYPES, draw
from torch.nn.functional import conv2d, conv_transpose2d

from fastgan import filters, functional, nn
from fastgan.filters import Resampling
from fastgan.ops.upfirdn2d import adjoint_of
from fastgan.reference import upfirdn2d as reference

F4 = functional.setup_filter([1, 3, 3, 1])
F12 = functional.setup_filter([1, 2, 3, 5, 9, 20, 19, 10, 6, 4, 2, 1])
# A filter that is no product of two, of different sizes.
F_DENSE = torch.tensor([[1.0, -2, 3], [0.5, 7, -4]])
# What networks do: filter, up, down, padding [x0, x1, y0, y1], flip, gain.
CASES = {
    "up2": (F4, 2, 1, [2, 1, 2, 1], False, 4.0),
    "down2": (F4, 1, 2, [1, 1, 1, 1], False, 1.0),
    "blur": (F4, 1, 1, [2, 1, 2, 1], True, 1.0),
    "up2-12": (F12, 2, 1, [6, 5, 6, 5], False, 4.0),
    "down2-12": (F12, 1, 2, [5, 5, 5, 5], False, 1.0),
    "dense": (F_DENSE, [2, 3], [3, 1], [1, 2, -1, 3], False, -2.0),
    "cropped": (F4, [1, 2], [2, 1], [-1, 3, 2, -2], False, 1.0),
    "ratio": (F12, 3, 2, [5, 4, 3, 2], True, 0.5),
}
each = pytest.mark.parametrize("case", CASES)
SHAPE = (2, 3, 7, 9)


def brute_force(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
    """The formula in float64, written as it reads: insert zeros, pad or crop, sum taps, keep every down-th."""
    up, down = (list(v) if isinstance(v, (list, tuple)) else [v, v] for v in (up, down))
    padding = list(padding) if isinstance(padding, (list, tuple)) else [padding, padding]
    x0, x1, y0, y1 = padding if len(padding) == 4 else [padding[0], padding[0], padding[1], padding[1]]
    x = x.detach().double().cpu().numpy()
    f = np.ones((1, 1)) if f is None else f.double().cpu().numpy()
    f = np.outer(f, f) if f.ndim == 1 else f
    n, c, h, w = x.shape
    inserted = np.zeros((n, c, h * up[1], w * up[0]))
    inserted[:, :, :: up[1], :: up[0]] = x
    padded = np.zeros((n, c, h * up[1] + y0 + y1, w * up[0] + x0 + x1))
    for row in range(padded.shape[2]):
        for column in range(padded.shape[3]):
            if 0 <= row - y0 < h * up[1] and 0 <= column - x0 < w * up[0]:
                padded[:, :, row, column] = inserted[:, :, row - y0, column - x0]
    fh, fw = f.shape
    out = np.zeros((n, c, padded.shape[2] - fh + 1, padded.shape[3] - fw + 1))
    for i in range(fh):
        for j in range(fw):
            tap = f[i, j] if flip_filter else f[fh - 1 - i, fw - 1 - j]
            out += tap * padded[:, :, i : i + out.shape[2], j : j + out.shape[3]]
    return torch.from_numpy(gain * out[:, :, :: down[1], :: down[0]])


def run(x, case, function=functional.upfirdn2d):
    f, *options = CASES[case]
    return function(x, f.to(x.device), *options)


def gradient(compute, x, dy):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(compute(x), x, dy)[0]


def bound(dtype):
    return {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]


# --- what is computed ---


def reference_of(x, f, up, down, padding, flip_filter, gain):
    up, down = ([v, v] if isinstance(v, int) else v for v in (up, down))
    return reference.forward(x, f, Resampling(up, down, padding, flip_filter, gain))


@each
def test_reference_is_the_formula(case):
    x = draw(SHAPE)
    torch.testing.assert_close(run(x, case, reference_of), brute_force(x, *CASES[case]))


pairs = st.integers(1, 4) | st.lists(st.integers(1, 5), min_size=2, max_size=2)
paddings = st.integers(-3, 9) | st.lists(st.integers(-4, 9), min_size=2, max_size=2)
paddings |= st.lists(st.integers(-5, 12), min_size=4, max_size=4)


@st.composite
def filters_to_try(draw):
    values = st.integers(-4, 4).map(float)
    kind = draw(st.sampled_from(["none", "line", "long", "dense", "product"]))
    if kind == "none":
        return None
    if kind in ("line", "long"):
        sizes = (1, 9) if kind == "line" else (30, 64)
        return torch.tensor(draw(st.lists(values, min_size=sizes[0], max_size=sizes[1])))
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    if kind == "product":
        a, b = (torch.tensor(draw(st.lists(values, min_size=n, max_size=n))) for n in (rows, columns))
        return torch.outer(a, b)
    taps = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(taps).view(rows, columns)


@settings(
    max_examples=30,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    shape=st.tuples(st.integers(0, 2), st.sampled_from([1, 2, 3, 17]), st.integers(1, 9), st.integers(1, 19)),
    f=filters_to_try(),
    up=pairs,
    down=pairs,
    padding=paddings,
    flip=st.booleans(),
    gain=st.sampled_from([1, 0.5, -3.0]),
    dtype=st.sampled_from(DTYPES),
    channels_last=st.booleans(),
)
def test_any_arguments(target, shape, f, up, down, padding, flip, gain, dtype, channels_last):
    """Forward against the formula, and <A x, y> = <x, A' y>; or an error that says why not."""
    x = draw(shape, dtype, target)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    f = f if f is None else f.to(target)
    options = (up, down, padding, flip, gain)
    f64 = torch.ones(1) if f is None else f
    ups, downs = ([v, v] if isinstance(v, int) else v for v in (up, down))
    four = (
        [padding] * 4
        if isinstance(padding, int)
        else padding
        if len(padding) == 4
        else [p for p in padding for _ in "ab"]
    )
    if any(axis.out < 1 for axis in filters.axes(x.shape, f64.shape, ups, downs, four)):
        with pytest.raises(ValueError, match=r"padding leaves nothing to compute: along [HW]"):
            functional.upfirdn2d(x, f, *options)
        return
    x.requires_grad_()
    y = functional.upfirdn2d(x, f, *options)
    truth = brute_force(x, f, *options)
    assert y.shape == truth.shape
    assert y.dtype == dtype
    size = max(1.0, *(t.abs().max().item() for t in (truth, f64) if t.numel())) * f64.numel() ** (2 / f64.ndim / 2)
    torch.testing.assert_close(y.detach().double().cpu(), truth, rtol=bound(dtype), atol=bound(dtype) * size)
    dy = draw(y.shape, dtype, target, 3)
    (dx,) = torch.autograd.grad(y, x, dy)
    left = (truth * dy.double().cpu()).sum()
    right = (x.detach().double().cpu() * dx.double().cpu()).sum()
    scale = x.detach().double().norm().cpu() * dx.double().norm().cpu() + truth.norm() * dy.double().norm().cpu()
    assert (left - right).abs() <= bound(dtype) * (scale + 1e-9)


def test_filter_that_reads_more_of_few_channels_than_a_tile_holds(target):
    f = draw((64, 64), torch.float32, target, 2)
    x = draw((1, 7, 70, 66), torch.float64, target).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(functional.upfirdn2d(x, f).cpu(), brute_force(x, f))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_small_images_go_together_and_do_not_meet(dtype, case):
    """On the CPU each plane by itself gives the same bits as all of them; the last group is cut short."""
    pytest.importorskip("fastgan._C", reason="without compiled code")
    x = draw((3, 173, 6, 7), dtype)
    together = run(x, case)
    alone = torch.stack([run(x.flatten(0, 1)[i, None, None], case)[0] for i in range(0, 519, 37)])
    assert torch.equal(together.flatten(0, 1)[::37], alone.squeeze(1))


@each
def test_adjoint_of_the_adjoint_is_the_same_map(case):
    f, up, down, padding, *_ = CASES[case]
    up, down = ([v, v] if isinstance(v, int) else v for v in (up, down))
    size, taps = [9, 7], (f.shape[-1], f.shape[0])
    out = [axis.out for axis in filters.axes((1, 1, 7, 9), f.shape, up, down, padding)][::-1]
    back = adjoint_of(Resampling(up, down, padding, False, 1.0), size, out, taps, False)
    again = adjoint_of(back, out, size, taps, False).padding
    assert again[::2] == tuple(padding[::2])
    # What the last, dropped pixels would have read need not come back.
    assert all(0 <= p - q < d for p, q, d in zip(padding[1::2], again[1::2], down, strict=True))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2), (2, 5)])
@pytest.mark.parametrize("taps", [1, 4, 7])
def test_scipy(target, up, down, taps):
    """A full convolution along each axis, scipy's `upfirdn`, is one with taps - 1 zeros around the inserted ones."""
    signal = pytest.importorskip("scipy.signal", reason="scipy is not installed")
    rng = np.random.default_rng(0)
    x, fy, fx = rng.standard_normal((2, 3, 8, 11)), *rng.standard_normal((2, taps)).astype(np.float32)
    expected = signal.upfirdn(fx, signal.upfirdn(fy, x, up, down, axis=2), up, down, axis=3)
    around = [taps - 1, taps - up]  # scipy inserts no zeros after the last value
    f = torch.outer(torch.tensor(fy), torch.tensor(fx)).to(target)
    y = functional.upfirdn2d(torch.tensor(x, device=target), f, up, down, [*around, *around])
    torch.testing.assert_close(y.cpu(), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    line = functional.upfirdn1d(torch.tensor(x[0], device=target), torch.tensor(fx, device=target), up, down, around)
    torch.testing.assert_close(line.cpu(), torch.tensor(signal.upfirdn(fx, x[0], up, down)), rtol=1e-6, atol=1e-6)


def test_one_axis_is_one_row(target):
    x, f = draw((2, 3, 20), device=target), F12.to(target)
    y = functional.upfirdn1d(x, f, up=3, down=2, padding=[4, -1], gain=2)
    torch.testing.assert_close(y, run_1d(x, f))
    assert functional.upfirdn1d(x, None, up=2).shape == (2, 3, 40)


def run_1d(x, f):
    return functional.upfirdn2d(x[:, :, None], f[None], [3, 1], [2, 1], [4, -1, 0, 0], gain=2)[:, :, 0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_numbers_reach_their_footprint_alone(target, bad):
    x = draw((2, 2, 9, 9), torch.float32, target)
    x[1, 0, 4, 4] = bad
    y = run(x, "up2")
    assert y.isfinite().logical_not().sum() <= 16
    assert not y[1, 0, 7:10, 7:10].isfinite().all()


def test_tiles_meet(target):
    """Images that take several tiles along every axis, and rows longer than a tile."""
    for shape, case in (((1, 2, 75, 301), "up2"), ((1, 130, 21, 19), "down2"), ((1, 1, 3, 9000), "ratio")):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = draw(shape, torch.float32, target).contiguous(memory_format=memory_format)
            torch.testing.assert_close(run(x, case), run(x.double().cpu(), case, reference_of).float().to(target))


# --- filters ---


def test_products_are_found():
    fy, fx = torch.tensor([1.0, -2, 5]), torch.tensor([0.3, 0.7, 0, -1])
    for f in (torch.outer(fy, fx), F4):
        product = torch.outer(*filters.separate(f, torch.float32))
        torch.testing.assert_close(product, f, rtol=0, atol=2**-22 * f.abs().max().item())
    assert torch.equal(torch.outer(*filters.separate(F4, torch.float64)), F4)
    assert filters.separate(torch.outer(fy, fx) / 3, torch.float64) is None
    assert filters.separate(F_DENSE, torch.float32) is None
    assert torch.equal(torch.outer(*filters.separate(torch.zeros(2, 3), torch.float64)), torch.zeros(2, 3))


def test_a_changed_filter_is_read_again(target):
    f, x = F4.clone().to(target), draw(SHAPE, device=target)
    functional.upfirdn2d(x, f)
    f[0, 0] = 5
    torch.testing.assert_close(functional.upfirdn2d(x, f).cpu(), brute_force(x, f))


@pytest.mark.parametrize("change", ["data", "memory"])
def test_a_filter_that_changes_uncounted_is_read_again(change):
    f, x = F4.clone(), draw(SHAPE)
    functional.upfirdn2d(x, f)
    if change == "data":
        f.data.copy_(F4.flip(1) + 1)
    else:
        f.numpy()[:] += 1
    torch.testing.assert_close(functional.upfirdn2d(x, f), brute_force(x, f))


def test_setup_filter():
    assert torch.equal(functional.setup_filter([1, 3, 3, 1]), torch.outer(*[torch.tensor([1.0, 3, 3, 1])] * 2) / 64)
    assert functional.setup_filter(range(1, 9)).shape == (8,)
    assert functional.setup_filter(range(1, 9), separable=False).shape == (8, 8)
    assert torch.equal(functional.setup_filter(None), torch.ones(1, 1))
    assert torch.equal(
        functional.setup_filter([1, 2], normalize=False, flip_filter=True, separable=True), torch.tensor([2.0, 1])
    )
    x = draw((1, 1, 9, 9)).abs()
    for separable in (False, True):
        f = functional.setup_filter([1, 2, 3], gain=4, separable=separable)
        expected = 4 * functional.filter2d(x, functional.setup_filter([1, 2, 3]))
        torch.testing.assert_close(functional.filter2d(x, f), expected, rtol=1e-6, atol=0)  # both filters are rounded
    with pytest.raises(ValueError, match="separable=True needs an f of taps"):
        functional.setup_filter(torch.ones(2, 2), separable=True)
    with pytest.raises(ValueError, match="f must be taps"):
        functional.setup_filter([])
    with pytest.raises(ValueError, match="normalize=True needs an f of taps whose sum is not 0"):
        functional.setup_filter([1, -1])
    assert torch.equal(functional.setup_filter([1, -1], normalize=False), torch.tensor([[1.0, -1], [-1, 1]]))
    with pytest.raises(ValueError, match="gain must be 0 or more for a filter"):
        functional.setup_filter(range(1, 9), gain=-1)
    assert torch.equal(functional.setup_filter([1, 3], gain=-1), -functional.setup_filter([1, 3]))
    with pytest.raises(ValueError, match="gain must be finite"):
        functional.setup_filter([1, 3], gain=float("inf"))


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("size", [(6, 8), (12, 4)])
def test_sizes(target, taps, size):
    x, f = draw((1, 2, *size), device=target), functional.setup_filter(list(range(1, taps + 1)), target)
    h, w = size
    assert functional.filter2d(x, f).shape == x.shape
    assert functional.filter2d(x, f, padding=[1, 0, -1, 2]).shape == (1, 2, h + 1, w + 1)
    for factor in ([2, 2], [1, 4], [4, 2]):
        if taps >= 2 or max(factor) == 2:
            assert functional.upsample2d(x, f, factor).shape == (1, 2, h * factor[1], w * factor[0])
            assert functional.downsample2d(x, f, factor).shape == (1, 2, h // factor[1], w // factor[0])


def test_no_filter_is_one_tap(target):
    x = draw((1, 2, 4, 6), device=target)
    assert torch.equal(functional.filter2d(x, None), x)
    assert torch.equal(functional.downsample2d(x, None), x[:, :, ::2, ::2])
    up = functional.upsample2d(x, None, gain=0.25)
    assert torch.equal(up[:, :, 1::2, 1::2], x)
    assert up.sum() == pytest.approx(x.sum().item())


def test_a_constant_stays_in_the_middle(target):
    x = torch.ones(1, 1, 12, 12, device=target)
    for function in (functional.filter2d, functional.upsample2d, functional.downsample2d):
        y = function(x, F4.to(target))
        middle = y[:, :, 2:-3, 2:-3] if y.shape[2] > 6 else y[:, :, 2:-2, 2:-2]
        torch.testing.assert_close(middle, torch.ones_like(middle))


def test_upsampling_is_a_transposed_convolution(target):
    x = draw((1, 1, 5, 6), torch.float64, target)
    f = torch.arange(16.0).view(4, 4).to(target)
    full = conv_transpose2d(x, f.double()[None, None], stride=2)
    torch.testing.assert_close(functional.upsample2d(x, f), 4 * full[:, :, 1:-1, 1:-1])
    plain = conv2d(x, f.double().flip([0, 1])[None, None], stride=2, padding=1)
    torch.testing.assert_close(functional.downsample2d(x, f), plain[:, :, :2])


def test_modules():
    x = draw((1, 2, 6, 6), torch.float32)
    for module, function in (
        (nn.Upsample2d(gain=2), functional.upsample2d),
        (nn.Downsample2d(gain=2), functional.downsample2d),
        (nn.Filter2d(gain=2), functional.filter2d),
    ):
        assert list(module.state_dict()) == ["resample_filter"]
        assert torch.equal(module(x), function(x, F4, gain=2))
        half = module.to(torch.bfloat16)
        assert half.resample_filter.dtype == torch.float32
        assert half(x.bfloat16()).dtype == torch.bfloat16
        assert "taps=[4, 4]" in repr(half)


# --- derivatives ---


def test_no_gradient_is_computed_for_nothing():
    x = draw(SHAPE)
    assert run(x, "up2").grad_fn is None
    y = run(x.requires_grad_(), "up2")
    assert [t.shape for t in y.grad_fn.saved_tensors] == [(4, 4)]


# --- the ways torch calls an op ---


def test_compile_for_any_size(target):
    f = F4.to(target)
    compiled = torch.compile(lambda x: functional.upsample2d(x, f), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (5, 8, 11):
        x = draw((2, 3, size, size + 1), device=target).requires_grad_()
        torch.testing.assert_close(compiled(x), functional.upsample2d(x, f))
        dy = torch.ones_like(compiled(x))
        torch.testing.assert_close(gradient(compiled, x, dy), gradient(lambda x: functional.upsample2d(x, f), x, dy))


def test_vmap_is_a_longer_batch(target):
    x = draw((4, *SHAPE), device=target)
    torch.testing.assert_close(torch.func.vmap(lambda x: run(x, "up2"))(x)[2], run(x[2], "up2"))
    torch.testing.assert_close(torch.func.vmap(lambda x: run(x, "down2"), in_dims=1)(x)[1], run(x[:, 1], "down2"))
    with pytest.raises(NotImplementedError, match="f is one for all images"):
        torch.func.vmap(functional.upfirdn2d)(x, torch.stack([F4.to(target)] * 4))


def test_a_mode_sees_one_call():
    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen = []
    with Watch():
        functional.upsample2d(draw(SHAPE), F4)
    assert functional.upfirdn2d in seen


# --- bad input ---

X = torch.ones(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.upfirdn2d([1.0], F4), TypeError, "x must be a tensor, got list"),
        (lambda: functional.upfirdn2d(X.int(), F4), TypeError, "x.dtype must be one of .*, got torch.int32"),
        (lambda: functional.upfirdn2d(X[0], F4), ValueError, r"x must be \[N, C, H, W\] with H and W of at least 1"),
        (lambda: functional.upfirdn2d(X[:, :, :0], F4), ValueError, r"x must be \[N, C, H, W\] with H and W of at"),
        (lambda: functional.upfirdn2d(X, [1.0]), TypeError, "f must be a tensor or None, got list"),
        (lambda: functional.upfirdn2d(X, F4.double()), TypeError, "f must be float32, as from setup_filter, got"),
        (lambda: functional.upfirdn2d(X, torch.ones(65)), ValueError, r"f must be \[k\] or \[fh, fw\] with 1 to 64"),
        (lambda: functional.upfirdn2d(X, torch.ones(1, 1, 1)), ValueError, r"f must be \[k\] or \[fh, fw\]"),
        (lambda: functional.upfirdn2d(X, F4.clone().requires_grad_()), ValueError, "f must not require a gradient"),
        (lambda: functional.upfirdn2d(X, F4.to("meta")), ValueError, "f must be on the device of x, cpu, got"),
        (lambda: functional.upfirdn2d(X, F4, up=0), ValueError, "up must be 1 or more, got int 0"),
        (lambda: functional.upfirdn2d(X, F4, up=[1, 2, 3]), TypeError, "up must be an int or a list of 2 ints"),
        (lambda: functional.upfirdn2d(X, F4, down=1.5), TypeError, "down must be an int or a list of 2 ints"),
        (lambda: functional.upfirdn2d(X, F4, padding=[1] * 3), TypeError, "padding must be an int or a list of 2 or 4"),
        (lambda: functional.upfirdn2d(X, F4, padding=[0, 0, -1, 0]), ValueError, "padding leaves nothing .* along H"),
        (lambda: functional.upfirdn1d(X, None), ValueError, r"x must be \[N, C, L\], got"),
        (lambda: functional.upfirdn2d(X, F4, gain="2"), TypeError, "gain must be a number, got str '2'"),
        (lambda: functional.upfirdn2d(X, F4, gain=torch.ones(())), TypeError, "gain must be a number, got torch.float"),
        (lambda: functional.upfirdn2d(X, F4, gain=float("nan")), ValueError, "gain must be finite, got nan"),
        (lambda: functional.upfirdn1d(X[0], F4), ValueError, r"f must be \[k\] or None, got"),
        (lambda: functional.upfirdn1d(X[0], None, up=[1, 2]), TypeError, "up must be an int or a list of 1 ints"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_filter_that_is_changed_in_inference_mode():
    x = draw((1, 1, 6, 6), torch.float32)
    with torch.inference_mode():
        f = functional.setup_filter([1, 3, 3, 1])
        y = functional.upfirdn2d(x, f)
        f.mul_(2)
        torch.testing.assert_close(functional.upfirdn2d(x, f), 2 * y)


def test_the_default_dtype_is_not_the_filters():
    torch.set_default_dtype(torch.float64)
    try:
        assert functional.upfirdn2d(torch.ones(1, 1, 2, 2), None, up=2).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
