"""What tests share: an answer is computed once for equal values, and again for any that differ."""

import torch
from samples import computed_once


def test_an_answer_is_computed_once_for_equal_values():
    calls = []

    def double(x, factor=2):
        calls.append(x)
        return x * factor

    x = torch.arange(6.0).view(2, 3)
    assert computed_once(double, x) is computed_once(double, x.clone())
    others = [x + 1, -x, x.double(), x.view(3, 2), x.t().contiguous().t(), x.bfloat16()]
    for other in others:
        assert torch.equal(computed_once(double, other), other * 2)
    assert torch.equal(computed_once(double, x, factor=3), x * 3)
    assert len(calls) == 1 + len(others) + 1
