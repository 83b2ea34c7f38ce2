"""Convolutions with resampling: every form against the definition, torch's ways to call it, and the choice."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from samples import DTYPES, assert_as_exact, draw, layouts

import fastgan
from fastgan import functional
from fastgan.convolution import choice, resampled_forms, strided
from fastgan.convolution.resampled_forms import FORMS, Geometry

FUNCTIONS = {
    f"{name}{n}d": getattr(functional, f"{name}{n}d")
    for name in ("upsample_conv", "conv_downsample")
    for n in (1, 2, 3)
}
IMAGES = {name: FUNCTIONS[name] for name in ("upsample_conv2d", "conv_downsample2d")}
SIZES = (7, 6, 5)
FIR = functional.setup_filter([1, 3, 3, 1])
_CONTIGUOUS = torch.contiguous_format
each_function = pytest.mark.parametrize("name", IMAGES)


def tensors(n=2, kernel=(3, 3), groups=1, dtype=torch.float64, sizes=SIZES, channels=(4, 6)):
    c_in, c_out = channels
    x = draw((2, c_in, *sizes[:n]), dtype)
    return x, draw((c_out, c_in // groups, *kernel), dtype, seed=1), draw((c_out,), dtype, seed=2)


def written_out(up, x, weight, bias, scale, padding, groups=1):
    """What codebases write."""
    n = x.ndim - 2
    conv, pool = getattr(F, f"conv{n}d"), getattr(F, f"avg_pool{n}d")
    if up:
        for axis, s in enumerate(scale):
            x = x.repeat_interleave(s, 2 + axis)
        return conv(x, weight, bias, padding=padding, groups=groups)
    return pool(conv(x, weight, bias, padding=padding, groups=groups), scale)


def forms(up, x, weight, g):
    """The names of the forms that are right for these arguments."""
    found = choice._by_algebra(x, weight, g)
    if found is not None and found.name == "plain":
        return ["plain"]
    names = set(FORMS[up, False]) - {"pointwise"} if found is None else {"plain", "folded", "pointwise"}
    products = {"matmul", "strided_channels_last"}
    missing = {1: products, 2: products if g.groups > 1 else set(), 3: {"strided", *products}}[len(g.scale)]
    return sorted(names - missing)


KERNELS = [*itertools.product((1, 2, 3), [(1,), (2,), (3,)]), (1, (5,)), (1, (7,))]
ASYMMETRIC = [(2, (3, 1)), (2, (2, 5)), (3, (1, 3, 2))]


@pytest.mark.parametrize(("n", "kernel"), [(n, k * n if len(k) == 1 else k) for n, k in KERNELS] + ASYMMETRIC)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_every_form_is_the_definition(up, n, kernel):
    compared = set()
    for scale, groups, less in itertools.product([(2,) * n, (3,) * n, (2, 1, 3)[:n]], [1, 2], [0, 1]):
        x, weight, bias = tensors(n, kernel, groups, sizes=(9, 8, 7))
        padding = tuple(max(k // 2 - less, 0) for k in kernel)
        g = Geometry(up, scale, padding, (1,) * n, groups, None)
        if min(g.output_size(x, weight)) < 1:
            continue
        expected = written_out(up, x, weight, bias, scale, padding, groups)
        for form in forms(up, x, weight, g):
            y = resampled_forms.run(form, x, weight, bias, g)
            torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12, msg=lambda m, f=form: f"{f}: {m}")
            compared.add(form)
    assert compared >= {"plain", "folded"}
    assert n == 3 or kernel == (1,) * n or "strided" in compared
    assert n != 2 or kernel == (1, 1) or compared >= {"matmul", "strided_channels_last"}


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_volumes_in_half_precision(dtype, kernel):
    """Torch has no average pooling of them on a CPU."""
    x, weight, bias = (t.requires_grad_() for t in tensors(3, kernel, dtype=dtype))
    y = functional.conv_downsample3d(x, weight, bias)
    grads = torch.autograd.grad(y.sum(), (x, weight, bias))
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = written_out(False, *exact, (2, 2, 2), tuple(k // 2 for k in kernel))
    for got, wanted in zip((y, *grads), (expected, *torch.autograd.grad(expected.sum(), exact)), strict=True):
        assert got.dtype == dtype
        assert (got - wanted).abs().max() <= 4 * torch.finfo(dtype).eps * wanted.abs().max()


@pytest.mark.exact
@each_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_exact_as_torch(name, dtype):
    up = name == "upsample_conv2d"
    x, weight, bias = tensors(dtype=dtype, sizes=(12, 10), channels=(16, 8))
    g = Geometry(up, (2, 2), (1, 1), (1, 1), 1, None)
    dy = draw(g.output_size(x, weight), dtype, seed=3).expand(2, 8, -1, -1)

    def results(run, *inputs, dy=dy):
        inputs = [t.detach().requires_grad_() for t in inputs]
        y = run(*inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, dy.to(y.dtype))]

    doubles = [t.double() for t in (x, weight, bias)]
    exact = results(lambda *t: resampled_forms.run("plain", *t, g), *doubles)
    added = results(lambda *t: resampled_forms.run("plain", *t, g), *(t.abs() for t in doubles), dy=dy.abs())
    plain = results(lambda *t: resampled_forms.run("plain", *t, g), x, weight, bias)
    names = ["strided", "folded", *["polyphase"] * up]
    names += ["matmul", "strided_channels_last"] * (dtype in (torch.float64, torch.float32))
    for form in names:
        ours = results(lambda *t, f=form: resampled_forms.run(f, *t, g), x, weight, bias)
        # A folded weight, and what is added up to a result, is rounded once more than torch's.
        for got, torchs, truth, of in zip(ours, plain, exact, added, strict=True):
            assert_as_exact(got, torchs, truth, of, dy.numel(), computed_in=dtype)


@each_function
@pytest.mark.parametrize("form", ["strided", "strided_channels_last", "matmul", "folded", "polyphase"])
@pytest.mark.parametrize("layout", ["channels_last", "permuted", "sliced", "misaligned", "expanded"])
def test_layouts(name, form, layout):
    up = name == "upsample_conv2d"
    if form not in FORMS[up, False]:
        return
    x, weight, bias = tensors(sizes=(6, 6))
    g = Geometry(up, (2, 2), (1, 1), (1, 1), 1, None)
    expected = resampled_forms.run("plain", x, weight, bias, g)
    laid_out = layouts(x)[layout]
    if layout == "expanded":
        expected = resampled_forms.run("plain", laid_out.clone(), weight, bias, g)
    for w in (
        weight,
        weight.to(memory_format=torch.channels_last),
        weight.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        y = resampled_forms.run(form, laid_out, w, bias, g)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        if layout == "channels_last":
            assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_what_is_computed_in_channels_last_lies_as_x(up, memory_format):
    x, weight, bias = tensors(sizes=(6, 6))
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    y = resampled_forms.run("strided_channels_last", x, weight, bias, Geometry(up, (2, 2), (1, 1), (1, 1), 1, None))
    assert y.is_contiguous(memory_format=memory_format)
    for dy_format in (torch.contiguous_format, torch.channels_last):
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y, memory_format=dy_format), retain_graph=True)
        assert dx.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("asked", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_channels_last_form_computes_the_gradients_asked_for(up, asked, monkeypatch):
    inputs = [t.requires_grad_() for t in tensors(sizes=(6, 6))]
    y = resampled_forms.run("strided_channels_last", *inputs, Geometry(up, (2, 2), (1, 1), (1, 1), 1, None))
    computed = []
    for role, compute in strided._COMPUTE.items():
        monkeypatch.setitem(strided._COMPUTE, role, lambda *args, r=role, c=compute: computed.append(r) or c(*args))
    torch.autograd.grad(y.sum(), [inputs[i] for i in asked])
    x_role = strided.SMALL if up else strided.LARGE
    assert computed == [{0: x_role, 1: strided.WEIGHT}[i] for i in asked if i < 2]


@each_function
@pytest.mark.parametrize(
    "form", ["plain", "strided", "strided_channels_last", "matmul", "folded", "polyphase", "pointwise"]
)
def test_gradcheck(name, form):
    up = name == "upsample_conv2d"
    if form not in FORMS[up, False]:
        return
    kernel = (1, 1) if form == "pointwise" else (3, 2)
    inputs = [t.requires_grad_() for t in tensors(kernel=kernel, sizes=(3, 4), channels=(2, 2))]
    g = Geometry(up, (2, 2), tuple(k // 2 for k in kernel), (1, 1), 1, None)

    def run(*inputs):
        return resampled_forms.run(form, *inputs, g)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)

    def third(form):
        y = resampled_forms.run(form, inputs[0].tanh(), inputs[1].tanh(), inputs[2], g).tanh().sum()
        for _ in range(2):
            y = sum(d.tanh().sum() for d in torch.autograd.grad(y, inputs[:2], create_graph=True))
        return torch.autograd.grad(y, inputs[:2])

    for got, want in zip(third(form), third("plain"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


# --- FIR ---


@pytest.mark.parametrize(
    "taps", [[1, 3, 3, 1], [1, 2, 1], [1, 1], [1.0, 2, 3, 4, 5], [[1.0, 2], [3, 4], [5, 6]]], ids=str
)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 4)], ids=str)
def test_fir_up_is_upsampling_beyond_the_border_then_convolution(taps, kernel):
    fir = functional.setup_filter(taps)
    for groups, scale, dilation in itertools.product([1, 2], [2, [1, 3]], [1, 2]):
        x, weight, bias = tensors(kernel=kernel, groups=groups, sizes=(9, 8))
        padding = [d * (k // 2) for d, k in zip((dilation,) * 2, kernel, strict=True)]
        up = [scale, scale] if isinstance(scale, int) else scale
        wide = functional.upsample2d(x, fir, up[::-1], padding=padding[::-1])
        expected = F.conv2d(wide, weight, bias, groups=groups, dilation=dilation)
        options = {"scale_factor": scale, "mode": "fir", "fir": fir, "dilation": dilation, "groups": groups}
        y = functional.upsample_conv2d(x, weight, bias, **options)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
        wide = functional.downsample2d(x, fir, 1, padding=padding[::-1])  # centred below for down = s
        shifted = [(t - s + 1) // 2 - t // 2 for t, s in zip((fir.shape[0], fir.shape[-1]), up, strict=True)]
        ends = [(t - s) // 2 - (t - 1) // 2 for t, s in zip((fir.shape[0], fir.shape[-1]), up, strict=True)]
        wide = functional.filter2d(
            x, fir, [padding[1] + shifted[1], padding[1] + ends[1], padding[0] + shifted[0], padding[0] + ends[0]]
        )
        expected = F.conv2d(wide, weight, bias, stride=up, groups=groups, dilation=dilation)
        torch.testing.assert_close(
            functional.conv_downsample2d(x, weight, bias, **options), expected, rtol=1e-6, atol=1e-6
        )


def test_fir_sizes_and_inside():
    x, weight, bias = tensors(sizes=(16, 12))
    up = functional.upsample_conv2d(x, weight, bias, mode="fir", fir=FIR)
    assert up.shape == (2, 6, 32, 24)
    plain = F.conv2d(functional.upsample2d(x, FIR), weight, bias, padding=1)
    torch.testing.assert_close(up[:, :, 1:-1, 1:-1], plain[:, :, 1:-1, 1:-1], rtol=1e-6, atol=1e-6)
    assert functional.conv_downsample2d(x, weight, bias, mode="fir", fir=FIR).shape == (2, 6, 8, 6)
    # A constant stays a constant, away from the border.
    ones = functional.upsample_conv2d(torch.ones(1, 1, 16, 16), torch.ones(1, 1, 3, 3) / 9, mode="fir", fir=FIR)
    torch.testing.assert_close(ones[..., 3:-3, 3:-3], torch.ones(1, 1, 26, 26))


@each_function
def test_fir_gradients(name):
    inputs = [t.requires_grad_() for t in tensors(kernel=(3, 3), sizes=(4, 5), channels=(2, 2))]

    def run(*inputs):
        return IMAGES[name](*inputs, mode="fir", fir=FIR)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


# --- what is not folded ---


@each_function
def test_arguments_that_run_plain(name):
    up = name == "upsample_conv2d"
    x, weight, bias = tensors(sizes=(8, 8))
    for options, reason in [
        ({"dilation": 2}, "a dilated kernel does not fold"),
        ({"scale_factor": 1}, "scale_factor is 1"),
        *([({"padding": 3}, "padding is more than the kernel's size - 1")] if up else []),
    ]:
        form = functional.resampling_form(IMAGES[name], x, weight, bias, **options)
        assert form == ("plain", reason)
        y = IMAGES[name](x, weight, bias, **options)
        s, p, d = (
            options.get(k, v)
            for k, v in {"scale_factor": 2, "padding": options.get("dilation", 1), "dilation": 1}.items()
        )
        big = x.repeat_interleave(s, 2).repeat_interleave(s, 3) if up else x
        expected = F.conv2d(big, weight, bias, padding=p, dilation=d)
        torch.testing.assert_close(y, expected if up else F.avg_pool2d(expected, s))


@each_function
def test_empty_batches(name):
    for x in (torch.ones(0, 4, 6, 6), torch.ones(0, 4, 7, 5)):
        weight = torch.ones(6, 4, 3, 3)
        y = IMAGES[name](x, weight)
        assert y.shape == written_out(name == "upsample_conv2d", x, weight, None, (2, 2), 1).shape
        assert y.shape[0] == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_smallest_images(name):
    n, up = int(name[-2]), name.startswith("up")
    x, weight, bias = tensors(n, (3,) * n, sizes=(1,) * 3 if up else (2, 3, 2))
    y = FUNCTIONS[name](x, weight, bias)
    torch.testing.assert_close(y, written_out(up, x, weight, bias, (2,) * n, 1), rtol=1e-12, atol=1e-12)


# --- the choice ---


def test_rule_on_a_cpu():
    def form(function, n, c, size, k=3, *, learned=True, c_out=None, inside=False, **options):
        weight = torch.empty(c_out or c, c // options.get("groups", 1), k, k, requires_grad=learned)
        x = torch.empty(n, c, size, size).contiguous(memory_format=torch.channels_last if inside else _CONTIGUOUS)
        return functional.resampling_form(function, x, weight, **options).name

    up, down = IMAGES.values()
    assert form(up, 16, 256, 32, k=5) == form(up, 16, 128, 4) == form(down, 16, 128, 8) == "strided"
    last = "strided_channels_last"
    assert form(up, 16, 256, 32) == form(down, 16, 256, 32) == form(up, 16, 256, 8) == form(up, 64, 256, 4) == last
    assert form(up, 16, 512, 8) == form(up, 16, 64, 32, learned=False) == form(down, 16, 256, 32, learned=False) == last
    assert form(up, 16, 64, 32, inside=True) == last
    assert form(up, 16, 64, 32) == form(down, 16, 64, 64, learned=False) == form(up, 8, 256, 8) == "strided"
    assert form(up, 64, 256, 4, inside=True) == form(up, 16, 256, 32, inside=True, learned=False) == "strided"
    assert form(up, 64, 512, 4) == "matmul"
    assert form(up, 16, 256, 4) == form(down, 16, 256, 8) == "matmul"
    assert form(up, 16, 256, 4, learned=False) == form(down, 16, 256, 8, learned=False) == "strided"
    assert form(up, 4, 256, 4, learned=False) == form(down, 4, 256, 8, learned=False) == "matmul"
    assert form(up, 16, 256, 4, k=5) == form(down, 16, 256, 8, scale_factor=[1, 2]) == "strided"
    assert form(up, 16, 64, 32, c_out=3) == form(down, 16, 3, 64, c_out=64) == "strided"
    assert form(up, 16, 16, 32) == form(down, 16, 64, 64, c_out=16) == form(up, 16, 256, 4, scale_factor=65) == "folded"
    assert form(up, 1, 256, 4) == form(down, 1, 256, 8) == form(up, 16, 16, 4) == form(down, 16, 16, 8) == "plain"
    assert form(up, 16, 8, 32, c_out=64) == form(up, 16, 256, 32, groups=32) == "plain"
    assert form(up, 4, 8, 4, k=1) == form(down, 4, 8, 4, k=1) == "pointwise"
    assert form(up, 4, 8, 4, k=1, padding=1) == "plain"
    assert form(up, 4, 8, 8, mode="fir", fir=FIR) == "strided"
    assert form(up, 0, 8, 8) == "plain"


def test_sequences_have_the_strided_form():
    x, weight = torch.empty(16, 256, 64), torch.empty(256, 256, 3)
    assert functional.resampling_form(functional.upsample_conv1d, x, weight).name == "strided"
    x, weight = torch.empty(16, 64, 8, 8, 8), torch.empty(64, 64, 3, 3, 3)
    assert functional.resampling_form(functional.upsample_conv3d, x, weight).name == "folded"


def test_forward_mode_gets_torchs_ops():
    x, weight, bias = tensors(dtype=torch.float32, sizes=(16, 16), channels=(64, 64))
    up, forward_ad = functional.upsample_conv2d, torch.autograd.forward_ad
    assert functional.resampling_form(up, x, weight).name == "strided"
    with forward_ad.dual_level():
        assert functional.resampling_form(up, x, weight).name == "folded"
        tangent = forward_ad.unpack_dual(up(forward_ad.make_dual(x, x), weight, bias)).tangent
    torch.testing.assert_close(tangent, up(x, weight), rtol=1e-3, atol=1e-3)


def test_matmul_only_where_it_is_exact():
    x, weight, _ = tensors(dtype=torch.float32, sizes=(16, 8), channels=(256, 256))
    weight.requires_grad_()
    assert functional.resampling_form(functional.upsample_conv2d, x, weight).name == "matmul"
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert functional.resampling_form(functional.upsample_conv2d, x, weight).name == "strided"
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.resampling_form(functional.upsample_conv2d, x, weight).name == "strided"
    assert functional.resampling_form(functional.upsample_conv2d, x.bfloat16(), weight.bfloat16()).name == "strided"


@pytest.fixture
def tuned(monkeypatch):
    monkeypatch.setattr(choice, "_winners", {})
    fastgan.autotune()
    yield choice._winners
    fastgan.autotune(False)


@each_function
def test_autotune_measures_once_and_keeps_the_fastest(name, tuned, monkeypatch):
    calls, run = [], resampled_forms.run

    def slow(form, *args):
        calls.append(form)
        return run(form, *args)

    def seconds(call, form, device):
        call(form)
        return 1.0 if form == "folded" else 2.0

    monkeypatch.setattr(resampled_forms, "run", slow)
    monkeypatch.setattr(choice, "_seconds", seconds)
    x, weight, bias = (t.requires_grad_() for t in tensors(sizes=(6, 6)))
    y = IMAGES[name](x, weight, bias)
    candidates = {form for form in FORMS[name == "upsample_conv2d", False] if form != "pointwise"}
    assert set(calls) == candidates
    calls.clear()
    assert torch.equal(IMAGES[name](x, weight, bias), y)
    assert calls == ["folded"]
    assert all(t.grad is None for t in (x, weight, bias))
    form = functional.resampling_form(IMAGES[name], x, weight, bias)
    assert form.name == "folded"
    assert form.reason.startswith("measured: plain 2e+03 ms, strided 2e+03 ms, matmul 2e+03 ms, folded 1e+03 ms")
    with torch.no_grad():
        IMAGES[name](x, weight, bias)
    assert len(tuned) == 2  # without a gradient it is another kind of call
    with torch.inference_mode():
        IMAGES[name](x, weight, bias)
    assert len(tuned) == 2


@each_function
def test_autotune_is_left_out_where_something_traces(name, tuned):
    x, weight, bias = tensors(sizes=(6, 6))
    torch.compile(IMAGES[name], backend="eager", fullgraph=True)(x, weight, bias)
    torch.func.grad(lambda x: IMAGES[name](x, weight, bias).sum())(x)
    assert not tuned


# --- the ways torch calls it ---


def fir_up(x, weight, bias, fir=None):
    return functional.upsample_conv2d(x, weight, bias, mode="fir", fir=FIR if fir is None else fir)


WAYS = {**IMAGES, "fir": fir_up}
each_way = pytest.mark.parametrize("name", WAYS)


@each_way
# Of symbolic sizes torch 2.13's inductor cannot compile a strided convolution whose weight is computed.
@pytest.mark.parametrize(
    ("compiler", "dynamic"),
    [("aot_eager", False), ("aot_eager", True), pytest.param("inductor", False, marks=pytest.mark.slow)],
)
def test_compile(name, compiler, dynamic, monkeypatch):
    monkeypatch.setitem(globals(), "FIR", FIR.clone())  # torch marks a global tensor as one of symbolic sizes
    inputs = [t.requires_grad_() for t in tensors()]
    compiled = torch.compile(WAYS[name], fullgraph=True, backend=compiler, dynamic=dynamic)
    y, expected = compiled(*inputs), WAYS[name](*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    dy = draw(y.shape, seed=5)
    for a, b in zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("fir", FIR.clone() if function is fir_up else None)

    def forward(self, x, weight, bias):
        return self.function(x, weight, bias, *([] if self.fir is None else [self.fir]))


@each_way
def test_export_for_any_batch(name):
    inputs = tensors()
    batch = {0: torch.export.Dim("batch", min=2)}
    program = torch.export.export(Module(WAYS[name]), inputs, dynamic_shapes=(batch, None, None))
    longer = (torch.cat([inputs[0]] * 2), *inputs[1:])
    torch.testing.assert_close(program.module()(*longer), WAYS[name](*longer), rtol=1e-10, atol=1e-10)
    plain = program.run_decompositions(fastgan.decompositions())
    assert not any("fastgan" in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(*longer), WAYS[name](*longer), rtol=1e-10, atol=1e-10)


@each_way
def test_torch_func(name):
    inputs = tensors(sizes=(4, 4), channels=(2, 2))

    def curve(*inputs):
        return WAYS[name](*inputs).sin().sum()

    wanted = [t.clone().requires_grad_() for t in inputs]
    first = torch.autograd.grad(curve(*wanted), wanted, create_graph=True)
    for a, b in zip(torch.func.grad(curve, (0, 1, 2))(*inputs), first, strict=True):
        torch.testing.assert_close(a, b)

    def squares(*inputs):
        return sum(g.square().sum() for g in torch.func.grad(curve, (0, 1, 2))(*inputs))

    second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
    for a, b in zip(torch.func.grad(squares, (0, 1, 2))(*inputs), second, strict=True):
        torch.testing.assert_close(a, b)


@each_way
def test_vmap(name):
    x, weight, bias = tensors(sizes=(4, 4))
    xs = torch.stack([x, 2 * x, x - 1])
    y = torch.func.vmap(WAYS[name], (0, None, None))(xs, weight, bias)
    torch.testing.assert_close(y[2], WAYS[name](xs[2], weight, bias))
    weights = torch.stack([weight, -weight, weight / 3])
    y = torch.func.vmap(WAYS[name], (0, 0, None))(xs, weights, bias)
    torch.testing.assert_close(y[2], WAYS[name](xs[2], weights[2], bias))

    def loss(weight, x):
        return WAYS[name](x[None], weight, bias).sin().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x)
    torch.testing.assert_close(per_sample[1], torch.func.grad(loss)(weight, x[1]))


@each_way
def test_autocast(name):
    inputs = tensors(dtype=torch.float32, sizes=(8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        y = WAYS[name](*(t.requires_grad_() for t in inputs))
        grads = torch.autograd.grad(y.float().sum(), inputs)
    assert y.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in grads)
    assert (y.float() - WAYS[name](*inputs)).norm() < 0.02 * y.float().norm()


@pytest.mark.parametrize(
    ("up", "form"),
    [(up, form) for up in (True, False) for form in ("folded", "strided", "pointwise")] + [(True, "polyphase")],
)
@pytest.mark.parametrize("step", [1, 2], ids=["all pixels", "one of each block"])
def test_float16_overflows_only_near_its_range(up, form, step):
    """Forms round sums of up to s^2 weights or pixels: docs/limits.md has the rule."""
    k = 1 if form == "pointwise" else 3
    g = Geometry(up, (2, 2), (k // 2, k // 2), (1, 1), 1, None)
    small, large = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)
    large[..., ::step, ::step] = 1
    inputs = (small if up else large), torch.ones(3, 3, k, k), (large if up else small)
    limit, little = 0.99 * torch.finfo(torch.float16).max / 4, 2**-10
    # x, weight or dy at the limit, then y, dx or dweight.
    y, dx, dw = ((limit / float(t.max())) ** 0.5 for t in _results("plain", inputs, g, torch.float64))
    factors = [(limit, little, little), (little, limit, little), (little, little, limit)]
    for each in [*factors, (y, y, little), (little, dx, dx), (dw, little, dw)]:
        scaled = [t * factor for t, factor in zip(inputs, each, strict=True)]
        for name in ("plain", form):
            assert all(t.isfinite().all() for t in _results(name, scaled, g, torch.float16)), (name, each)


def _results(form, inputs, g, dtype):
    """y, dx and dweight."""
    x, weight, dy = (t.to(dtype) for t in inputs)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = resampled_forms.run(form, x, weight, None, g)
    return y.detach(), *torch.autograd.grad(y, (x, weight), dy)


@pytest.mark.parametrize("name", ["upsample_conv2d", "conv_downsample2d"])
def test_weights_are_folded_in_float32(name):
    """Under autocast the sums of weights are rounded, not their summands."""
    from fastgan.convolution import folded_weight

    weight = draw((8, 8, 3, 3), torch.float32)
    exact = folded_weight.strided(weight.double(), (2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert (folded_weight.strided(weight, (2, 2)) - exact).abs().max() < 1e-6
        assert folded_weight.transposed(weight, (2, 2), 1).dtype == torch.float32
    half = folded_weight.strided(weight.bfloat16(), (2, 2))
    assert torch.equal(half, folded_weight.strided(weight.bfloat16().float(), (2, 2)).bfloat16())


# --- bad input ---

X, W = torch.ones(2, 4, 6, 6), torch.ones(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f([1.0], W), TypeError, "x must be a tensor, got list"),
        (lambda f: f(X[0], W), ValueError, r"x must be \[N, C_in, H, W\], got"),
        (lambda f: f(X, W[0]), ValueError, r"weight must be \[C_out, C_in / groups, 2 sizes\], got"),
        (lambda f: f(X[:, :3], W), ValueError, "with C_in = 3 and groups = 1, got"),
        (lambda f: f(X, W, groups=2), ValueError, "with C_in = 4 and groups = 2, got"),
        (lambda f: f(X.int(), W), TypeError, "x.dtype must be one of"),
        (lambda f: f(X, W, torch.ones(5)), ValueError, r"bias must be \[C_out\], \[6\], or None, got"),
        (lambda f: f(X, W.to("meta")), ValueError, "weight must be on the device of x, cpu, got"),
        (lambda f: f(X, W, scale_factor=1.5), TypeError, "scale_factor must be an int or a list of 2 ints, got"),
        (lambda f: f(X, W, scale_factor=0), ValueError, "scale_factor must be 1 or more, got"),
        (lambda f: f(X, W, padding=-1), ValueError, "padding must be 0 or more, got"),
        (lambda f: f(X, W, padding="full"), ValueError, "padding must be one of same, valid, got str 'full'"),
        (lambda f: f(X, W, padding=[1] * 3), TypeError, "padding must be an int or a list of 1 or 2 ints, got"),
        (lambda f: f(X, W, dilation=[1, 2, 3]), TypeError, "dilation must be an int or a list of 1 or 2 ints, got"),
        (lambda f: f(X, W, mode="bilinear"), ValueError, 'mode must be ".*" or "fir", got \'bilinear\''),
        (lambda f: f(X, W, mode="fir"), ValueError, 'fir must be a filter with mode="fir" and None with any other'),
        (lambda f: f(X, W, fir=FIR), ValueError, 'fir must be a filter with mode="fir" and None with any other'),
        (lambda f: f(X, W, fir=FIR), ValueError, r"any other, got torch.float32 \[4, 4\] on cpu and"),
        (lambda f: f(X, W, mode="fir", fir=[1, 3, 3, 1]), TypeError, "fir must be a tensor or None, got list"),
        (lambda f: f(X, W, mode="fir", fir=FIR.double()), TypeError, "fir must be float32, as from setup_filter, got"),
        (lambda f: f(X[:, :, :1, :1], W, padding=0), ValueError, "x is too small for this kernel, padding and scale"),
        (lambda f: f(X.double(), W), (TypeError), "weight must have the dtype of x, torch.float64, got"),
    ],
)
@each_function
def test_bad_input(name, call, error, message):
    with pytest.raises(error, match=message):
        call(IMAGES[name])


def test_form_of_another_function():
    with pytest.raises(ValueError, match=r"function must be one of upsample_conv1d, .*, got"):
        functional.resampling_form(F.conv2d, X, W)
