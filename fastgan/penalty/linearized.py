"""The linearized engine: the gradient of a penalty on input gradients, without differentiating anything twice.

While the activation pattern of a critic is frozen, its logits o are affine in the input x. With g_n = d o_n / d x_n,
f_n = d adversarial / d o_n and v_n = d penalty / d g_n:

    forward of x, on tape                                          o                              1 F
    backward of sum o_n to x and to every weighted operation       g, delta                       1 F
    replay of f_n x_n + v_n with constants scaled by f_n           the weighted operations again                  1 F
    each weight's gradient, with delta, when it is replayed        gradients of adversarial + penalty             1 F

F is the cost of one forward. For a weighted operation y = W a, the gradient of f o + <v, g> is
sum_n (f_n a_n + t_n) delta_n^T, with t the replay's share of v: what the replay leaves at the operation's input.

A critic that ends in something else (minibatch statistics, attention) is linearized up to there. Let h be what this
head takes, b = d sum o / d h and J = d h / d x. Then <v, g> changes by <v, (dJ)^T b> + <J v, db>: the first is the
trunk's, as above with b arriving at its end; the second is that of b along J v, which the replay of the trunk leaves at
its end: only the head is differentiated twice.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgan.intercept import run_under
from fastgan.intercept.precision import FULL_FLOAT32
from fastgan.penalty.double_backward import vector_jacobian_products
from fastgan.penalty.recorder import TapeRecorder
from fastgan.penalty.replay import Replay
from fastgan.penalty.rules import RULES
from fastgan.penalty.tape import check_versions


class Linearization:
    """One recorded forward.

    Args:
        run: x -> the critic's logits [N, ...].
        x: the input [N, ...], a leaf that requires grad.
        exact: whether products are computed in full float32, as a proof needs it.
    """

    def __init__(self, run: Any, x: Tensor, exact: bool = False):
        self.x, self.exact = x, exact
        recorder = TapeRecorder(x, RULES)
        forward = partial(run_under, recorder, partial(run, x))
        self.logits = FULL_FLOAT32.run(forward) if exact else forward()
        self.tape, self.reasons = recorder.finish(self.logits), recorder.reasons
        self.head_gradients: list[Tensor] = []

    @property
    def complete(self) -> bool:
        """Whether the tape reaches the logits: there is no head."""
        return not self.tape.refusal

    @property
    def one_logit(self) -> bool:
        """Whether every sample has one logit, so that one f_n serves its whole replay."""
        return self.logits.numel() == len(self.x)

    def input_gradient(self) -> tuple[Tensor, dict[int, Tensor]]:
        """g [N, ...]; delta by number of the operation, for every one that takes a tensor that requires grad."""
        ends = list(self.tape.ends.values())
        if self.complete:
            arriving = [torch.ones_like(self.logits)]
        else:
            bs = vector_jacobian_products(self.logits, ends, torch.ones_like(self.logits))
            self.head_gradients = [torch.zeros_like(h) if b is None else b for h, b in zip(ends, bs, strict=True)]
            arriving = [b.detach() for b in self.head_gradients]
        edges = {i: op.edge for i, op in enumerate(self.tape.operations) if op.edge is not None}
        inputs = [self.x, *edges.values()]
        g, *deltas = torch.autograd.grad(ends, inputs, arriving, retain_graph=True, allow_unused=True)
        deltas = {i: delta for i, delta in zip(edges, deltas, strict=True) if delta is not None}
        return torch.zeros_like(self.x) if g is None else g, deltas

    def gradients(self, v: Tensor, f: Tensor | None, deltas: dict[int, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Tensors y and gradients dy: sum <y, dy> has, by the parameters, the gradients of f o + <v, g>.

        Args:
            v: d penalty / d g [N, ...].
            f: d adversarial / d o [N]; None for zero, and where there is a head.
            deltas: from `input_gradient`, which comes first; emptied.

        Raises:
            RefusedError: a constant was changed in place since the forward.
        """
        return self.replay(v, f, deltas)[1]

    def replay(
        self, v: Tensor, f: Tensor | None, deltas: dict[int, Tensor]
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """What it leaves at the tape's ends, and `gradients`."""
        check_versions(self.tape.operations)
        x = v if f is None else torch.addcmul(v, self.x.detach(), f.to(v.dtype).view(-1, *[1] * (v.ndim - 1)))
        ends, pairs = Replay(self.tape, f, deltas).run(x)
        if not self.complete:
            pairs += [(b, t) for b, t in zip(self.head_gradients, ends, strict=True) if b.requires_grad]
        return ends, pairs
