"""Interpolates and scaled samples: every backend against float64, torch and the contract of an op."""

import pytest
import torch
from samples import (
    DTYPES,
    KEPT,
    LAYOUTS,
    SHAPES,
    assert_as_exact,
    assert_same_bits_from_any_number_of_threads,
    computed_once,
    draw,
    layouts,
)

from fastgan import functional


def broadcast(c, x):
    return c.view(-1, *[1] * (x.ndim - 1))


def plain_scale(x, c):
    return x * broadcast(c, x).to(x.dtype)


def plain_interpolate(real, fake, eps):
    eps = broadcast(eps, real).to(real.dtype)
    return eps * real + (1 - eps) * fake


def terms_of_interpolate(real, fake, eps):
    """Of absolute values, what plain_interpolate would be if no two terms had different signs."""
    return plain_interpolate(real, 0 * fake, eps) + (1 + broadcast(eps, fake)) * fake


# By name: ours, torch's, how many batches it takes, and what it is of absolute values if nothing cancels.
OPS = {
    "scale_samples": (functional.scale_samples, plain_scale, 1, plain_scale),
    "interpolate": (functional.interpolate, plain_interpolate, 2, terms_of_interpolate),
}
each = pytest.mark.parametrize("op", OPS)


def inputs(op, shape, dtype=torch.float64, device="cpu"):
    batches = [draw(shape, dtype, device, seed) for seed in range(OPS[op][2])]
    return [*batches, draw(shape[:1], torch.float64, device, 9).to(torch.promote_types(dtype, torch.float32))]


def gradients(compute, tensors, dy):
    tensors = [t.detach().requires_grad_() for t in tensors]
    return torch.autograd.grad(compute(*tensors), tensors, dy)


@pytest.mark.exact
@each
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_exact_as_torch(target, dtype, op):
    ours, torchs, _, terms = OPS[op]
    for shape in SHAPES:
        arguments = inputs(op, shape, dtype, target)
        exact = [t.double().cpu() for t in arguments]
        sizes = [t.abs() for t in exact]
        result = ours(*arguments)
        assert result.dtype == dtype
        assert_as_exact(
            result, computed_once(torchs, *arguments), computed_once(torchs, *exact), computed_once(terms, *sizes)
        )
        dy = draw(shape, dtype, target, 5)
        truths = computed_once(gradients, torchs, exact, dy.double().cpu())
        added = computed_once(gradients, terms, sizes, dy.double().cpu().abs())
        for got, plain, truth, of in zip(
            gradients(ours, arguments, dy), computed_once(gradients, torchs, arguments, dy), truths, added, strict=True
        ):
            assert_as_exact(got, plain, truth, of, dy[:1].numel())


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(target, name, dtype, op):
    ours, torchs, _, terms = OPS[op]
    x, *others = inputs(op, (5, 4, 6, 8), dtype, target)
    laid_out = layouts(x)[name]
    if name == "misaligned":
        assert laid_out.data_ptr() % 16
    arguments = [laid_out, *others]
    exact = [t.double().cpu() for t in arguments]
    sizes = [t.abs() for t in exact]
    result = ours(*arguments)
    assert_as_exact(
        result, computed_once(torchs, *arguments), computed_once(torchs, *exact), computed_once(terms, *sizes)
    )
    if name in KEPT:
        assert result.stride() == laid_out.stride()
    for dy in (torch.ones_like(result), result.new_ones(()).expand_as(result), result.transpose(2, 3).contiguous().mT):
        results = [gradients(f, arguments, dy) for f in (ours, torchs)]
        exact_dy = dy.double().cpu()
        truths, added = gradients(torchs, exact, exact_dy), gradients(terms, sizes, exact_dy.abs())
        for got, plain, truth, of in zip(*results, truths, added, strict=True):
            assert_as_exact(got, plain, truth, of, dy[:1].numel())


@each
def test_per_sample_numbers_of_any_dtype_and_stride(target, op):
    *batches, c = inputs(op, (6, 4), torch.float32, target)
    expected = OPS[op][0](*batches, c)
    torch.testing.assert_close(OPS[op][0](*batches, c.double()), expected)
    torch.testing.assert_close(OPS[op][0](*batches, torch.stack([c, c], 1)[:, 0]), expected)
    torch.testing.assert_close(OPS[op][0](*batches, c.half()), OPS[op][0](*batches, c.half().float()))


@each
def test_gradcheck(target, op):
    arguments = [t.requires_grad_() for t in inputs(op, (3, 2, 2), device=target)]
    assert torch.autograd.gradcheck(OPS[op][0], arguments)
    assert torch.autograd.gradgradcheck(OPS[op][0], arguments)


@each
def test_gradient_only_where_it_is_asked_for(target, op):
    for wanted in range(OPS[op][2] + 1):
        arguments = inputs(op, (3, 4), device=target)
        arguments[wanted].requires_grad_()
        OPS[op][0](*arguments).sum().backward()
        assert [t.grad is not None for t in arguments] == [i == wanted for i in range(len(arguments))]


@each
def test_samples_are_kept_only_for_the_gradient_that_reads_them(op):
    *batches, c = inputs(op, (3, 4))
    y = OPS[op][0](batches[0].requires_grad_(), *batches[1:], c)
    assert [t is None for t in y.grad_fn.saved_tensors] == [True] * len(batches) + [False]


@each
def test_non_finite_number_stays_in_its_sample(target, op):
    *batches, c = inputs(op, (3, 5000), torch.float32, target)
    batches[0][1, 7] = torch.nan
    assert OPS[op][0](*batches, c).isfinite().logical_not().sum() == 1
    c[2] = torch.inf
    assert OPS[op][0](*batches, c)[0].isfinite().all()


@each
def test_same_bits_from_any_number_of_threads(op):
    arguments = inputs(op, (3, 70001), torch.float32)
    ours, dy = OPS[op][0], draw((3, 70001), torch.float32, seed=5)
    # The gradient of a number per sample is a sum of torch's.
    assert_same_bits_from_any_number_of_threads(lambda: [ours(*arguments), *gradients(ours, arguments, dy)[:-1]])


def test_gradients_of_both_batches_in_one_pass_are_those_that_can_be_differentiated(target):
    for shape, dtype in ((3, 70001), torch.float32), ((600, 3, 2), torch.float16), ((0, 4), torch.bfloat16):
        real, fake, eps = inputs("interpolate", shape, dtype, target)
        y, dy = functional.interpolate(real.requires_grad_(), fake.requires_grad_(), eps), draw(shape, dtype, target, 5)
        one_pass = torch.autograd.grad(y, [real, fake], dy, retain_graph=True)
        apart = [torch.autograd.grad(y, x, dy, create_graph=True)[0] for x in (real, fake)]
        assert all(map(torch.equal, one_pass, apart))


# --- random interpolates ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_random_interpolate_is_reproducible(target, dtype):
    real, fake = draw((50, 3), dtype, target), draw((50, 3), dtype, target, 1)
    generator = torch.Generator(target)
    first, second = (functional.random_interpolate(real, fake, generator=generator.manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, functional.random_interpolate(real, fake, generator=generator))
    exact = torch.promote_types(dtype, torch.float32)
    eps = torch.rand(50, dtype=exact, device=target, generator=generator.manual_seed(3))
    assert torch.equal(first, functional.interpolate(real, fake, eps))
    torch.manual_seed(3)
    drawn = torch.rand(50, dtype=exact, device=target)
    torch.manual_seed(3)
    assert torch.equal(functional.random_interpolate(real, fake), functional.interpolate(real, fake, drawn))


def test_random_interpolate_differentiates_both(target):
    real, fake = (draw((5, 3), device=target, seed=i).requires_grad_() for i in range(2))
    d_real, d_fake = torch.autograd.grad(functional.random_interpolate(real, fake).sum(), (real, fake))
    torch.testing.assert_close(d_real + d_fake, torch.ones_like(real))
    assert ((d_real >= 0) & (d_real < 1)).all()


# --- the ways torch calls an op ---


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(target, dtype, layout, op):
    x, *others = inputs(op, (3, 4, 5, 2), dtype, target)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    arguments = [t.requires_grad_() for t in (x, *others)]
    torch.library.opcheck(getattr(torch.ops.fastgan, op).default, tuple(arguments))


@each
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile(target, compiler, op):
    arguments = [t.requires_grad_() for t in inputs(op, (3, 4, 5), device=target)]
    compiled = torch.compile(OPS[op][0], fullgraph=True, backend=compiler)
    torch.testing.assert_close(compiled(*arguments), OPS[op][0](*arguments))
    dy = draw((3, 4, 5), device=target, seed=5)
    for a, b in zip(gradients(compiled, arguments, dy), gradients(OPS[op][0], arguments, dy), strict=True):
        torch.testing.assert_close(a, b)


class Random(torch.nn.Module):
    def forward(self, real, fake, eps):
        return functional.interpolate(functional.scale_samples(real, eps), fake, eps)


def test_export(target):
    arguments = inputs("interpolate", (3, 4), device=target)
    program = torch.export.export(Random(), tuple(arguments))
    assert {"fastgan.interpolate", "fastgan.scale_samples"} <= {
        str(node.target).removesuffix(".default") for node in program.graph.nodes
    }
    torch.testing.assert_close(program.module()(*arguments), Random()(*arguments))


def curve(op):
    return lambda *arguments: OPS[op][0](*arguments).sin().sum()


@each
def test_torch_func(target, op):
    arguments = inputs(op, (3, 4), device=target)
    wanted = [t.clone().requires_grad_() for t in arguments]
    argnums = tuple(range(len(arguments)))
    first = torch.autograd.grad(curve(op)(*wanted), wanted, create_graph=True)
    for a, b in zip(torch.func.grad(curve(op), argnums)(*arguments), first, strict=True):
        torch.testing.assert_close(a, b)

    def squares(*arguments):
        return sum(g.square().sum() for g in torch.func.grad(curve(op), argnums)(*arguments))

    second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
    for a, b in zip(torch.func.grad(squares, argnums)(*arguments), second, strict=True):
        torch.testing.assert_close(a, b)


@each
def test_vmap_is_a_longer_batch(target, op):
    batches = [draw((3, 4, 2), device=target, seed=seed) for seed in range(OPS[op][2])]
    stacked, shared = draw((3, 4), device=target, seed=7), draw((4,), device=target, seed=8)
    y = torch.func.vmap(OPS[op][0])(*batches, stacked)
    torch.testing.assert_close(y[2], OPS[op][0](*[b[2] for b in batches], stacked[2]))
    y = torch.func.vmap(OPS[op][0], in_dims=(*[0] * len(batches), None))(*batches, shared)
    torch.testing.assert_close(y[1], OPS[op][0](*[b[1] for b in batches], shared))
    per_sample = torch.func.vmap(torch.func.grad(curve(op)))(*batches, stacked)
    torch.testing.assert_close(per_sample[1], torch.func.grad(curve(op))(*[b[1] for b in batches], stacked[1]))


@each
@pytest.mark.parametrize("compiled", [False, True])
def test_forward_mode_raises(compiled, op):
    arguments = inputs(op, (3, 4))

    def jvp(*arguments):
        return torch.func.jvp(OPS[op][0], arguments, arguments)

    with pytest.raises(NotImplementedError, match="forward-mode"):
        (torch.compile(jvp, backend="aot_eager") if compiled else jvp)(*arguments)


@each
def test_autocast_changes_nothing(target, op):
    arguments = inputs(op, (3, 40), torch.float32, target)
    with torch.autocast(target.type, dtype=torch.bfloat16):
        mixed = OPS[op][0](*arguments)
    assert torch.equal(mixed, OPS[op][0](*arguments))


@pytest.mark.parametrize("fake_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("real_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes_are_promoted_as_torch_does(target, autocast, real_dtype, fake_dtype):
    dtype = torch.promote_types(real_dtype, fake_dtype)
    real, fake = draw((5, 3, 4), real_dtype, target), draw((5, 3, 4), fake_dtype, target, 1)
    eps = draw((5,), torch.float64, target, 2).to(torch.promote_types(dtype, torch.float32))
    real.requires_grad_(), fake.requires_grad_(), eps.requires_grad_()
    with torch.autocast(target.type, dtype=torch.bfloat16, enabled=autocast):
        y = functional.interpolate(real, fake, eps)
        drawn = functional.random_interpolate(real, fake, generator=torch.Generator(target).manual_seed(3))
    assert y.dtype == drawn.dtype == dtype
    assert torch.equal(y, functional.interpolate(real.to(dtype), fake.to(dtype), eps))
    uniform = torch.rand(5, dtype=eps.dtype, device=target, generator=torch.Generator(target).manual_seed(3))
    assert torch.equal(drawn, functional.interpolate(real.to(dtype), fake.to(dtype), uniform))
    dreal, dfake, deps = torch.autograd.grad(y.double().square().sum(), (real, fake, eps))
    assert (dreal.dtype, dfake.dtype, deps.dtype) == (real_dtype, fake_dtype, eps.dtype)


# --- bad input ---

X, C = torch.ones(3, 4), torch.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.scale_samples([1.0], C), TypeError, "x must be a tensor, got list"),
        (lambda: functional.scale_samples(X.int(), C), TypeError, "x.dtype must be one of .*, got torch.int32"),
        (lambda: functional.scale_samples(X, 2.0), TypeError, "c must be a tensor, got float 2.0"),
        (lambda: functional.scale_samples(X, C.int()), TypeError, "c.dtype must be one of"),
        (
            lambda: functional.scale_samples(X, C[:2]),
            ValueError,
            r"c must be \[3\], one number per sample, got",
        ),
        (
            lambda: functional.scale_samples(X, C.to("meta")),
            ValueError,
            "c must be on the device of x, cpu, got",
        ),
        (
            lambda: functional.interpolate(X, X[:2], C),
            ValueError,
            r"fake must have the shape of real, \[3, 4\]",
        ),
        (
            lambda: functional.interpolate(X, X.to("meta"), C),
            ValueError,
            "fake must be on the device of real, cpu, got",
        ),
        (lambda: functional.interpolate(X, X.int(), C), TypeError, "fake.dtype must be one of .*, got torch.int32"),
        (lambda: functional.random_interpolate(X, 1.0), TypeError, "fake must be a tensor, got float 1.0"),
        (lambda: functional.interpolate(X, X, X), ValueError, r"eps must be \[3\], one number per sample"),
        (lambda: functional.random_interpolate(C[0], X), ValueError, r"real must be \[N, ...\] with one or more"),
        (lambda: functional.random_interpolate(X, C), ValueError, "fake must have the shape of real"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
