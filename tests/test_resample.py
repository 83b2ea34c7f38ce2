"""Nearest and bilinear upsampling and means of blocks as FIR filters, against torch's."""

import pytest
import torch
import torch.nn.functional as F
from samples import assert_as_exact

from fastgan import backends
from fastgan.ops import resample

TORCHS = {
    resample.nearest: lambda x, s: F.interpolate(x, scale_factor=float(s), mode="nearest"),
    resample.bilinear: lambda x, s: F.interpolate(x, scale_factor=float(s), mode="bilinear"),
    resample.mean: F.avg_pool2d,
}
FORMATS = {
    "nchw": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3)[:, ::2],
}
functions = pytest.mark.parametrize("function", TORCHS, ids=lambda f: f.__name__)


@functions
@pytest.mark.parametrize("s", [2, 3, 4, 7])
@pytest.mark.parametrize("layout", FORMATS)
def test_equals_torchs(function, s, layout):
    x = FORMATS[layout](torch.randn(2, 4, 9, 13, dtype=torch.float64)).requires_grad_()
    ours, theirs = function(x, s), TORCHS[function](x, s)
    dy = torch.randn_like(theirs)
    (ours_dx,), (theirs_dx,) = (torch.autograd.grad(y, x, dy) for y in (ours, theirs))
    for got, want in ((ours, theirs), (ours_dx, theirs_dx)):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.exact
@functions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_as_exact_as_torchs(function, dtype):
    x = torch.randn(2, 4, 8, 6).to(dtype)
    truth = TORCHS[function](x.double(), 2)
    ours, theirs = function(x, 2), TORCHS[function](x, 2)
    assert ours.dtype == dtype
    assert_as_exact(ours, theirs, truth, TORCHS[function](x.double().abs(), 2), 4)
    if function is resample.nearest:
        assert torch.equal(ours, theirs)


@functions
def test_gradgradcheck(function):
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, 2).square(), x)
    assert torch.autograd.gradgradcheck(lambda x: function(x, 2).square(), x)


def test_where_it_is_faster():
    x = torch.empty(4, 16, 32, 32)
    assert resample.is_faster(x, (2, 2), up=True)
    assert resample.is_faster(x.bfloat16(), (4, 4), up=False)
    assert not resample.is_faster(x.contiguous(memory_format=torch.channels_last), (2, 2), up=True)
    assert not resample.is_faster(x, (2, 1), up=True)
    assert not resample.is_faster(x, (1, 1), up=True)
    assert not resample.is_faster(x, (33, 33), up=True)
    assert not resample.is_faster(x[0], (2, 2), up=True)
    assert not resample.is_faster(x[:1, :1], (2, 2), up=True)
    assert not resample.is_faster(x.to("meta"), (2, 2), up=True)
    with backends.backend("reference"):
        assert not resample.is_faster(x, (2, 2), up=True)
