"""Scale, shift, activation, and normalizations: what only they have; the contract of an op is in contract/."""

import pytest
import torch
from channels import OPS, gradients, inputs

from fastgan import backends, functional
from fastgan.ops import norm_act as norm_op

each = pytest.mark.parametrize("op", OPS)


class Watched:
    """A backend that notes what of a backward is asked for."""

    def __init__(self, backend):
        self.backend, self.asked = backend, []

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def backward(self, *arguments):
        self.asked.append(arguments[-1])
        return self.backend.backward(*arguments)


@pytest.fixture
def watched(target, monkeypatch):
    pick = backends.pick
    backend = Watched(pick("scale_shift_act", torch.empty(0, device=target)))
    monkeypatch.setattr(backends, "pick", lambda op, x: backend if op == "scale_shift_act" else pick(op, x))
    return backend


@pytest.fixture
def in_two_passes(monkeypatch):
    """Normalization that calls `scale_shift_act`, on a backend that would have it whole too."""
    monkeypatch.setattr(norm_op, "_whole", lambda x, name: None)


@pytest.mark.parametrize("through_a_node", [False, True])
def test_what_nobody_asked_for_is_not_computed(target, watched, through_a_node):
    """Under `autograd.grad(y, x)` an autograd.Function is told that every input needs a gradient."""
    leaves = [t.requires_grad_() for t in inputs((3, 4, 5), "NC", device=target)]
    y = functional.scale_shift_act(*([t * 1 for t in leaves] if through_a_node else leaves))
    dy = torch.ones_like(y)
    for wanted, expected in (((0,), (True, False)), ((1,), (False, True)), ((0, 2), (True, True))):
        torch.autograd.grad(y, [leaves[i] for i in wanted], dy, retain_graph=True)
        y.backward(dy, retain_graph=True, inputs=[leaves[i] for i in wanted])
        assert watched.asked == [expected] * 2
        watched.asked.clear()
    y.backward(dy)
    assert watched.asked == [(True, True)]


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_normalization_without_dx_is_one_pass(target, watched, in_two_passes, norm):
    x, weight, bias = (t.requires_grad_() for t in inputs((3, 4, 5), "C", device=target))
    y = functional.norm_act(x, weight, bias, norm=norm)
    torch.autograd.grad(y.sum(), (weight, bias), retain_graph=True)
    assert watched.asked == [(False, True)]
    torch.autograd.grad(y.sum(), x)
    assert watched.asked[1:] == [(False, True), (True, False)]


@each
def test_non_finite_number_stays_in_its_channel(target, op):
    x, *values = inputs((2, 3, 50), "C", torch.float32, target)
    x[0, 1, 7] = torch.nan
    y, dx, *sums = gradients(OPS[op], [x, *values], torch.ones_like(x))
    assert y[0, 1, 7].isnan()
    assert all(t[:, [0, 2]].isfinite().all() for t in (y, dx))
    assert all(t[[0, 2]].isfinite().all() for t in sums)


# --- bad input ---

X, C = torch.ones(3, 4, 5), torch.ones(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.scale_shift_act([1.0], C, C), TypeError, "x must be a tensor, got list"),
        (lambda: functional.scale_shift_act(X.int(), C, C), TypeError, "x.dtype must be one of"),
        (lambda: functional.scale_shift_act(X[0, 0], C, C), ValueError, r"x must be \[N, C, ...\] with two or more"),
        (lambda: functional.scale_shift_act(X, C[:3], C), ValueError, r"scale must be \[4\], .* or \[3, 4\], .* got"),
        (lambda: functional.scale_shift_act(X, C, 1.0), TypeError, "shift must be a tensor, got float"),
        (lambda: functional.scale_shift_act(X, C, C.to("meta")), ValueError, "shift must be on the device of x"),
        (lambda: functional.scale_shift_act(X, C, C, "sine"), ValueError, "act must be one of linear, .* str 'sine'"),
        (lambda: functional.scale_shift_act(X, C, C, "lrelu", "x"), TypeError, "alpha must be a number, got"),
        (
            lambda: functional.norm_act(X, norm="layer"),
            ValueError,
            "norm must be one of batch, instance, got str 'layer'",
        ),
        (lambda: functional.norm_act(X, training=False), ValueError, "running_mean must be given where training is"),
        (lambda: functional.norm_act(X, running_mean=X[..., 0]), ValueError, r"running_mean must be \[4\], one number"),
        (lambda: functional.norm_act(X[:1, :, :1]), ValueError, "x must have more than one value per channel in train"),
        (lambda: functional.norm_act(X[..., :1], norm="instance"), ValueError, "x must have more than one value per"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_dead_relu_stops_an_infinite_gradient(target, channels_last):
    """As torch's does."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.linspace(-1, 1, 48).view(2, 4, 2, 3).to(target).contiguous(memory_format=layout).requires_grad_()
    dy = torch.where(x > 0, 1.0, torch.inf)
    for y in (functional.scale_shift_act(x, None, None, "relu"), functional.pixel_shuffle_act(x, None, 1, "relu")):
        (dx,) = torch.autograd.grad(y, x, dy)
        assert torch.equal(dx, (x > 0).float())


@pytest.mark.parametrize("act", ["elu", "selu"])
def test_second_derivative_at_0_is_torchs(act):
    x = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(functional.scale_shift_act(x, None, None, act).sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    assert not ddx.any()
