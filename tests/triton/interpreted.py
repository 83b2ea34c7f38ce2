"""Triton's kernels in its interpreter; `tests/test_triton_interpret.py` runs this file with TRITON_INTERPRET=1.

The interpreter rounds to bfloat16 by truncation: hence one ulp, not half of one, in the bounds.
"""

import pytest
import torch
from samples import seeded
from torch.nn.functional import normalize

import fastgan
from fastgan import functional
from fastgan.kernels import grouped
from fastgan.kernels import spectral_norm as kernels
from fastgan.reference import spectral_norm as reference

EPS = 1e-12
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Together: one row, one column, several tiles, several blocks of columns, with and without rows of whole vectors.
SHAPES = [(1, 9), (9, 1), (5, 7), (17, 132), (10, 1100)]
# training, u_first, n_power_iterations
MODES = {
    "u_first": (True, True, 1),
    "u_first_3": (True, True, 3),
    "v_first": (True, False, 1),
    "v_first_2": (True, False, 2),
    "eval": (False, True, 1),
}


def draw(shape, dtype, generator, shift=0):
    """Random values that begin `shift` elements into their storage."""
    flat = torch.randn(torch.Size(shape).numel() + shift, generator=generator, dtype=torch.float64).to(dtype)
    return flat[shift:].view(shape)


def make(shapes, dtype, shift=0):
    """Weights, and u and v near the singular vectors: sigma of random ones is a sum that cancels."""
    generator = seeded(0)
    weights = [draw(shape, dtype, generator, shift) for shape in shapes]
    us, vs = [], []
    for weight in weights:
        u, v = draw(weight.shape[:1], dtype, generator, shift), draw(weight.shape[1:], dtype, generator, shift)
        v.copy_(normalize(torch.mv(weight.double().t(), torch.mv(weight.double(), v.double())), dim=0))
        u.copy_(normalize(torch.mv(weight.double(), v.double()), dim=0))
        us.append(u)
        vs.append(v)
    return weights, us, vs


def double(tensors):
    return [t.double() for t in tensors]


def assert_close(ours, truth, dtype, computed_in, n):
    """One rounding to `dtype`, and what sums of n terms lose in the dtype that they are computed in."""
    assert ours.dtype == dtype
    assert ours.shape == truth.shape
    bound = 4 * n**0.5 * torch.finfo(computed_in).eps + torch.finfo(dtype).eps
    assert (ours.double() - truth).norm() <= bound * truth.norm()


def check_forward(weights, us, vs, mode, out_dtype, eps=EPS):
    """Compare with the reference in float64; returns new u, new v and sigmas."""
    training, u_first, iterations = MODES[mode]
    options = (iterations, eps, training, u_first)
    ours = kernels.forward(weights, us, vs, *options, out_dtype)
    truth = reference.forward(double(weights), double(us), double(vs), *options, torch.float64)
    for i, weight in enumerate(weights):
        for k, dtype in enumerate((out_dtype, weight.dtype, weight.dtype, ours[3].dtype)):
            assert_close(ours[k][i], truth[k][i], dtype, ours[3].dtype, weight.numel())
    return ours[1:]


def check_backward(weights, us, vs, sigmas, grad_dtype, shift=0):
    """Compare with the reference in float64, with and without a gradient of sigmas."""
    generator = seeded(1)
    grads = [draw(weight.shape, grad_dtype, generator, shift) for weight in weights]
    for grad_sigmas in (None, torch.randn(len(weights), generator=generator, dtype=sigmas.dtype)):
        ours = kernels.backward(grads, grad_sigmas, weights, us, vs, sigmas)
        inputs = (double(grads), None if grad_sigmas is None else grad_sigmas.double(), double(weights))
        truth = reference.backward(*inputs, double(us), double(vs), sigmas.double())
        for dweight, exact, weight in zip(ours, truth, weights, strict=True):
            assert_close(dweight, exact, weight.dtype, sigmas.dtype, weight.numel())


def check(shapes, dtype, mode, out_dtype=None, shift=0):
    """Forward and backward."""
    out_dtype = out_dtype or dtype
    weights, us, vs = make(shapes, dtype, shift)
    check_backward(weights, *check_forward(weights, us, vs, mode, out_dtype), out_dtype, shift)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_agrees_with_the_reference(dtype, mode):
    check(SHAPES, dtype, mode)


@pytest.mark.parametrize("mode", ["u_first", "v_first_2", "eval"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_agrees_with_the_reference(dtype, mode):
    check([(5, 7), (17, 132)], dtype, mode)


@pytest.mark.parametrize(
    ("dtype", "out_dtype"),
    [
        (torch.float64, torch.bfloat16),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float64),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_out_dtype(dtype, out_dtype):
    check([(5, 7), (9, 8)], dtype, "u_first", out_dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_misaligned(dtype):
    check([(3, 8), (9, 4)], dtype, "u_first", shift=1)


def test_more_parts_than_a_block_sums():
    blocks = kernels.COMBINE_COLUMNS * grouped.SUM_BLOCK.value
    tiles = kernels.TILE_ROWS * kernels.COMBINE_TILES
    check_forward(*make([(1, blocks + 1)], torch.float64), "v_first", torch.float64)
    check_forward(*make([(tiles + 1, 2)], torch.float64), "u_first", torch.float64)


@pytest.mark.parametrize("mode", ["u_first", "v_first"])
def test_eps_bounds_the_norms(mode):
    check_forward(*make([(5, 7)], torch.float64), mode, torch.float64, eps=100.0)


def test_single_number():
    weights, us, vs = make([(1, 1)], torch.float64)
    (w_hat,), (u,), (v,), sigmas = kernels.forward(weights, us, vs, 1, EPS, True, True, torch.float64)
    assert w_hat.item() == pytest.approx(u.item() * v.item())
    assert sigmas.item() == pytest.approx(weights[0].abs().item())


def test_weights_of_any_rank_keep_their_shapes():
    weights, us, vs = make([(4, 18)], torch.float32)
    flat = kernels.forward(weights, us, vs, 1, EPS, True, True, torch.float32)
    shaped = kernels.forward([weights[0].view(4, 2, 3, 3)], us, vs, 1, EPS, True, True, torch.float32)
    assert torch.equal(shaped[0][0], flat[0][0].view(4, 2, 3, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_non_finite_weight_stays_in_its_layer(bad):
    weights, us, vs = make([(3, 8), (9, 5)], torch.float32)
    weights[0][1, 2] = bad
    w_hats, new_us, new_vs, sigmas = kernels.forward(weights, us, vs, 1, EPS, True, True, torch.float32)
    assert not w_hats[0].isfinite().any()
    assert not sigmas[0].isfinite()
    assert all(t.isfinite().all() for t in (w_hats[1], new_us[1], new_vs[1], sigmas[1]))


def test_same_bits_twice():
    weights, us, vs = make([(17, 132)], torch.float32)

    def run():
        w_hats, new_us, new_vs, sigmas = kernels.forward(weights, us, vs, 1, EPS, True, True, torch.float32)
        return [*w_hats, *new_us, *new_vs, sigmas, *kernels.backward(weights, None, weights, new_us, new_vs, sigmas)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize(("mode", "launches"), [("u_first_3", 7), ("v_first_2", 6), ("eval", 2)])
def test_launches_do_not_grow_with_the_list(monkeypatch, mode, launches):
    count = 0

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            nonlocal count
            count += 1
            return self.kernel[grid]

    for name in [name for name in vars(kernels) if name.endswith("_kernel")]:
        monkeypatch.setattr(kernels, name, Counted(getattr(kernels, name)))
    training, u_first, iterations = MODES[mode]
    for length in (1, 5):
        weights, us, vs = make([(2, 3)] * length, torch.float32)
        count = 0
        out = kernels.forward(weights, us, vs, iterations, EPS, training, u_first, torch.float32)
        assert count == launches
        kernels.backward(weights, None, weights, *out[1:])
        assert count == launches + 2


def test_first_and_second_derivatives():
    weights, us, vs = make([(2, 2), (1, 2)], torch.float64)
    weights = [w.requires_grad_() for w in weights]

    def outputs(*weights):
        out = functional.spectral_norm(list(weights), us, vs, training=False)
        return (*out.weights, out.sigmas)

    with fastgan.backend("triton"):
        assert torch.autograd.gradcheck(outputs, weights)
        assert torch.autograd.gradgradcheck(outputs, weights)


def test_graph_capture_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r'spectral_norm: the triton backend .* use fastgan.backend\("cuda"\)'):
        grouped.pointer_table("spectral_norm", torch.device("cuda"), [torch.zeros(1)])
