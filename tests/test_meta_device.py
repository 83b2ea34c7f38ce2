"""Every public function and module on the meta device: shapes without values, forward and backward, as on the CPU."""

import pytest
import torch

import public_ops
from fastgan import functional
from public_ops import FUNCTIONS, MODULES, draw

FIR = {
    name: lambda name=name: [
        getattr(functional, name)(draw(2, 4, 8, 8), draw(6, 4, 3, 3), mode="fir", fir=torch.ones(4))
    ]
    for name in ("upsample_conv2d", "conv_downsample2d")
}
# A module that holds a filter has it where it was given: public_ops gives it on the CPU.
HOLD_A_FILTER = {"Downsample2d", "Filter2d", "Upsample2d"}
LAYERS = {name: lambda make=make: make()() for name, make in MODULES.items() if name not in HOLD_A_FILTER}
CALLS = FUNCTIONS | {f"{name}, fir": call for name, call in FIR.items()} | LAYERS


@pytest.mark.parametrize("name", CALLS)
def test_shapes(name, monkeypatch):
    results = []
    for device in ("cpu", "meta"):
        for taps in ("TAPS", "TAPS_2D"):
            monkeypatch.setattr(public_ops, taps, getattr(public_ops, taps).to(device))
        with torch.device(device):
            outputs = CALLS[name]()
        leaves = list(public_ops._leaves(outputs))
        gradients = torch.autograd.grad([y.sum() for y in outputs], leaves, allow_unused=True)
        tensors = [t for t in (*outputs, *gradients) if t is not None]
        assert {t.device.type for t in tensors} == {device}
        known = [str((tuple(t.shape), t.dtype)) for t in tensors]
        results.append((known[: len(outputs)], sorted(known[len(outputs) :])))
    assert results[0] == results[1]
