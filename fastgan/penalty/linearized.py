"""The linearized engine: the gradient of a penalty on input gradients, without differentiating anything twice.

While the activation pattern of a critic is frozen, its logits o are affine in the input x. With g_n = d o_n / d x_n,
f_n = d adversarial / d o_n and v_n = d penalty / d g_n:

    forward of x, on tape                                          o                              1 F
    backward of sum o_n to x and to every weighted operation       g, delta                       1 F
    replay of f_n x_n + v_n with constants scaled by f_n           the weighted operations' outputs again, live    1 F
    backward from those with delta                                 gradients of adversarial + penalty              1 F

F is the cost of one forward. For a weighted operation y = W a, the gradient of f o + <v, g> is
sum_n (f_n a_n + t_n) delta_n^T, with t the replay's share of v: what the replay leaves at the operation's input.
"""

from typing import Any

import torch
from torch import Tensor

from fastgan.penalty.replay import Replay, Weighted
from fastgan.penalty.rules import RULES
from fastgan.penalty.tape import Recorder


class Linearization:
    """One recorded forward.

    Args:
        run: x -> the critic's logits [N, ...].
        x: the input [N, ...], a leaf that requires grad.
    """

    def __init__(self, run: Any, x: Tensor):
        self.x = x
        with Recorder(x, RULES) as recorder:
            self.logits = run(x)
        self.tape = recorder.finish(self.logits)

    @property
    def one_logit(self) -> bool:
        """Whether every sample has one logit, so that one f_n serves its whole replay."""
        return self.logits.numel() == len(self.x)

    def input_gradient(self) -> tuple[Tensor, list[Tensor | None]]:
        """g [N, ...], and delta for every operation on the tape that has an edge, in their order."""
        edges = [operation.edge for operation in self.tape.operations if operation.edge is not None]
        g, *deltas = torch.autograd.grad(self.logits.sum(), [self.x, *edges], retain_graph=True, allow_unused=True)
        return torch.zeros_like(self.x) if g is None else g, deltas

    def replay(self, v: Tensor, f: Tensor | None) -> list[Weighted]:
        """The weighted operations for penalty v [N, ...] and adversarial gradient f [N]; None for f = 0."""
        x = v if f is None else torch.addcmul(v, self.x.detach(), f.to(v.dtype).view(-1, *[1] * (v.ndim - 1)))
        return Replay(self.tape, f).run(x)[1]

    def gradients(self, v: Tensor, f: Tensor | None, deltas: list[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        """Pairs (y, delta): sum <y, delta> has, by the parameters, the gradients of f o + <v, g>."""
        positions = [operation for operation in self.tape.operations if operation.edge is not None]
        arriving = dict(zip(map(id, positions), deltas, strict=True))
        return [
            (output, delta) for operation, output in self.replay(v, f) if (delta := arriving[id(operation)]) is not None
        ]
