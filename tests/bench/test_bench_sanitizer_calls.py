"""The calls that compute-sanitizer watches, made on the CPU."""

import torch

from fastgan.bench import sanitizer_calls


def test_calls_are_legal(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    calls = []
    right = sanitizer_calls.functional.spectral_norm

    def recorded(weights, *args, **kwargs):
        calls.append((weights[0].dtype, kwargs["order"], kwargs["training"], weights[0].storage_offset()))
        return right(weights, *args, **kwargs)

    monkeypatch.setattr(sanitizer_calls.functional, "spectral_norm", recorded)
    sanitizer_calls.main("reference")
    assert len(set(calls)) == len(calls) == 4 * 2 * 2 * 2
