"""A call of the table's as a function of tensors."""

import torch
from samples import SHIFT

from contract.draw import Draw
from contract.table import TABLE


def drawn(op, call, shape, dtype=torch.float64, seed=0, **fixed):
    """A call of an op, and the rest of what it is made of."""
    row = TABLE[op]
    d = Draw(seed + SHIFT, shape=shape, **{"all": True, "zeros": False, "scale": 1.0, **row.calls[call], **fixed})
    case = row.case(d, dtype)
    ignored = {"shape", *row.calls[call]} - d.settled_names
    assert not ignored, f"{op}: {call}: the case does not ask for {', '.join(sorted(ignored))}"
    return case, d


class Call:
    """A call as a function of the tensors that it can be differentiated by."""

    def __init__(self, target, op, call, shape=None, dtype=torch.float64, seed=0, layout="contiguous"):
        shape = TABLE[op].image if shape is None else shape
        self.case, _ = drawn(op, call, shape, dtype, seed, layout=layout)
        self.device = target
        self.names = [name for name in self.case.inputs if name not in self.case.constants]
        self.constants = {name: self._tensor(name) for name in self.case.constants}

    def _tensor(self, name):
        laid = self.case.inputs[name]
        return laid.view(laid.base.clone().to(self.device))

    def tensors(self):
        return [self._tensor(name).detach().requires_grad_() for name in self.names]

    def __call__(self, *tensors):
        given = dict(zip(self.names, tensors, strict=True))
        y = self.case.ours(**given, **self.constants)
        return y[0] if isinstance(y, tuple) else y

    def curve(self, *tensors):
        return self(*tensors).sin().sum()

    def squares(self, *tensors):
        """Of first derivatives."""
        return sum(g.square().sum() for g in torch.func.grad(self.curve, tuple(range(len(tensors))))(*tensors))

    def derivatives(self, function, tensors):
        """The value, first and second derivatives, by autograd."""
        y = function(*tensors)
        first = torch.autograd.grad(y.sin().sum(), tensors, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
        return [y, *first, *second]
