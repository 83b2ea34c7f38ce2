"""Spectral norm of a list of weights as one op.

    u_first:  u <- W v / |W v|;   v <- W^T u / |W^T u|          v_first:  the same two, v before u
    sigma = u^T W v               W_hat = W / sigma             (every |x| that divides is max(|x|, eps))
    dW = (dW_hat - <dW_hat, W>/sigma * u v^T) / sigma + dsigma * u v^T          with u and v held constant

In eager mode an autograd.Function calls the backend; where something traces, `torch.ops.fastgan.spectral_norm` is.
A backward that is itself differentiated is the reference's, plain torch: so every order is right.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.decompositions import register_decomposition, registered
from fastgan.ops.layout import empty_dense, from_memory, memory_order, to_memory
from fastgan.ops.tracing import is_traced, raise_no_forward_mode, refuse_forward_mode, untraced
from fastgan.reference import spectral_norm as reference

ORDERS = ("u_first", "v_first")

torch.library.define(
    "fastgan::spectral_norm",
    "(Tensor[] weights, Tensor[] us, Tensor[] vs, int n_power_iterations, float eps, bool training, bool u_first,"
    " ScalarType out_dtype) -> (Tensor[], Tensor[], Tensor[], Tensor)",
)
torch.library.define(
    "fastgan::spectral_norm_backward",
    "(Tensor[] grads, Tensor? grad_sigmas, Tensor[] weights, Tensor[] us, Tensor[] vs, Tensor sigmas) -> Tensor[]",
)


class Options(NamedTuple):
    """What is not a tensor, in the order of the schema."""

    n_power_iterations: int
    eps: float
    training: bool
    u_first: bool
    out_dtype: torch.dtype


def check_arguments(
    weights: Any, us: Any, vs: Any, n_power_iterations: Any, eps: Any, order: Any, out_dtype: Any
) -> None:
    """Raise TypeError or ValueError for what the op does not take."""
    check.tensor_list(weights, "weights")
    check.tensor_list(us, "us")
    check.tensor_list(vs, "vs")
    check.same_length(weights=weights, us=us, vs=vs)
    check.dtype(weights[0].dtype, "weights[0].dtype")
    for i, (weight, u, v) in enumerate(zip(weights, us, vs, strict=True)):
        size = weight.numel()
        if weight.ndim < 2 or size == 0:
            raise ValueError(f"weights[{i}] must be [m, ...] with two or more sizes >= 1, got {check.describe(weight)}")
        rows = weight.shape[0]
        if u.shape != (rows,) or v.shape != (size // rows,):
            raise ValueError(
                f"us[{i}] and vs[{i}] must be [{rows}] and [{size // rows}] for weights[{i}] {list(weight.shape)}, "
                f"got {list(u.shape)} and {list(v.shape)}"
            )
    for name, tensors in (("weights", weights), ("us", us), ("vs", vs)):
        for i, tensor in enumerate(tensors):
            check.like(tensor, f"{name}[{i}]", weights[0], "weights[0]")
    if not isinstance(n_power_iterations, int) or not 1 <= n_power_iterations <= check.MOST_INT:
        raise ValueError(f"n_power_iterations must be an integer >= 1, got {check.short(n_power_iterations)}")
    check.finite(eps, "eps", least=0)
    check.choice(order, "order", ORDERS)
    if out_dtype is not None:
        check.dtype(out_dtype, "out_dtype")


def spectral_norm(
    weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], options: Options
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """The op, for arguments that were checked."""
    if is_traced(*weights):
        refuse_forward_mode("spectral_norm")
        weights, us, vs, sigmas = registered("spectral_norm")(weights, us, vs, *options)
        return weights, [u.detach() for u in us], [v.detach() for v in vs], sigmas
    if torch._C._are_functorch_transforms_active():
        *out, sigmas = _TransformedSpectralNorm.apply(options, *weights, *us, *vs)
        return *_thirds(out), sigmas
    new_us: list[Tensor] = []
    new_vs: list[Tensor] = []
    *weights_out, sigmas = _SpectralNorm.apply(options, us, vs, new_us, new_vs, *weights)
    return weights_out, new_us, new_vs, sigmas


# --- forward ---


@untraced
def _forward(
    weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], *options: Any
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    backend = backends.pick("spectral_norm", weights[0])
    orders = [memory_order(weight) for weight in weights]
    out, us_out, vs_out, sigmas = backend.forward(
        list(map(to_memory, weights, orders)),
        [u.contiguous() for u in us],
        list(map(_vector_to_memory, vs, weights, orders)),
        *options,
    )
    return (
        list(map(from_memory, out, weights, orders)),
        us_out,
        list(map(_vector_from_memory, vs_out, weights, orders)),
        sigmas,
    )


def _fake(weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], *options: Any) -> tuple:
    out_dtype = Options(*options).out_dtype
    exact = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
    return (
        [empty_dense(weight, out_dtype) for weight in weights],
        [u.new_empty(u.shape) for u in us],
        [v.new_empty(v.shape) for v in vs],
        weights[0].new_empty(len(weights), dtype=exact),
    )


# --- backward ---


@untraced
def _backward(
    grads: Sequence[Tensor],
    grad_sigmas: Tensor | None,
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    sigmas: Tensor,
) -> list[Tensor]:
    backend = backends.pick("spectral_norm", weights[0])
    orders = [memory_order(weight) for weight in weights]
    dweights = backend.backward(
        list(map(to_memory, grads, orders)),
        grad_sigmas if grad_sigmas is None else grad_sigmas.contiguous(),
        list(map(to_memory, weights, orders)),
        us,
        list(map(_vector_to_memory, vs, weights, orders)),
        sigmas,
    )
    return list(map(from_memory, dweights, weights, orders))


def _fake_backward(
    grads: Sequence[Tensor],
    grad_sigmas: Tensor | None,
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    sigmas: Tensor,
) -> list[Tensor]:
    return [empty_dense(weight, weight.dtype) for weight in weights]


def _gradients(
    run: Any,
    wanted: Sequence[bool],
    grads: Sequence[Tensor | None],
    grad_sigmas: Tensor | None,
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    sigmas: Tensor,
    out_dtype: torch.dtype,
) -> list[Tensor | None]:
    """The gradients of the weights that want one and that something depends on; None for the others."""
    chosen = [i for i, want in enumerate(wanted) if want and (grads[i] is not None or grad_sigmas is not None)]
    out: list[Tensor | None] = [None] * len(weights)
    if not chosen:
        return out
    if len(chosen) < len(weights):
        sigmas = torch.stack([sigmas[i] for i in chosen])
        grad_sigmas = None if grad_sigmas is None else torch.stack([grad_sigmas[i] for i in chosen])
    dense = [_dense(grads[i], weights[i], out_dtype) for i in chosen]
    chosen_weights, chosen_us, chosen_vs = ([items[i] for i in chosen] for items in (weights, us, vs))
    # Under create_graph the gradient is differentiated again.
    compute = reference.backward if torch.is_grad_enabled() else run
    for i, dweight in zip(
        chosen, compute(dense, grad_sigmas, chosen_weights, chosen_us, chosen_vs, sigmas), strict=True
    ):
        out[i] = dweight
    return out


def _dense(grad: Tensor | None, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros for a result that nothing depends on; a strided gradient for a sparse one, such as an embedding's."""
    if grad is None:
        return torch.zeros_like(weight, dtype=dtype)
    return grad.to_dense() if grad.is_sparse else grad


# --- memory order: sigma does not depend on the order of the columns, v is permuted with them ---


def _vector_to_memory(v: Tensor, weight: Tensor, order: tuple[int, ...] | None) -> Tensor:
    if order is None:
        return v.contiguous()
    return v.reshape(weight.shape[1:]).permute([d - 1 for d in order[1:]]).flatten().contiguous()


def _vector_from_memory(v: Tensor, weight: Tensor, order: tuple[int, ...] | None) -> Tensor:
    if order is None:
        return v
    shape = [weight.shape[d] for d in order[1:]]
    inverse = [order.index(d) - 1 for d in range(1, weight.ndim)]
    return v.view(shape).permute(inverse).clone(memory_format=torch.contiguous_format).view(-1)


# --- autograd ---


class _SpectralNorm(torch.autograd.Function):
    """(options, us, vs, new_us, new_vs, *weights) -> (*weights, sigmas); the new u and v are appended to their lists.

    torch handles every tensor among the arguments and results of a Function, which takes longer than a small network's
    kernels. u and v are constants, so they go past it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        options: Options,
        us: Sequence[Tensor],
        vs: Sequence[Tensor],
        new_us: list[Tensor],
        new_vs: list[Tensor],
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        weights_out, us_out, vs_out, sigmas = _forward(weights, us, vs, *options)
        new_us += us_out
        new_vs += vs_out
        _save(ctx, options, weights, weights_out, us_out, vs_out, sigmas)
        return (*weights_out, sigmas)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (*[None] * 5, *_backward_saved(ctx, grads, ctx.needs_input_grad[5:]))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("spectral_norm")


class _TransformedSpectralNorm(torch.autograd.Function):
    """(options, *weights, *us, *vs) -> (*weights, *us, *vs, sigmas), for torch.func, which must see every tensor."""

    @staticmethod
    def forward(options: Options, *tensors: Tensor) -> tuple[Tensor, ...]:
        weights, us, vs, sigmas = _forward(*_thirds(tensors), *options)
        return (*weights, *us, *vs, sigmas)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        options, *tensors = inputs
        *out, sigmas = output
        weights_out, us_out, vs_out = _thirds(out)
        _save(ctx, options, _thirds(tensors)[0], weights_out, us_out, vs_out, sigmas)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        n = len(grads) // 3
        dweights = _backward_saved(ctx, (*grads[:n], grads[-1]), ctx.needs_input_grad[1 : n + 1])
        return (None, *dweights, *[None] * (2 * n))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise_no_forward_mode("spectral_norm")

    @staticmethod
    def vmap(info: Any, in_dims: tuple, options: Options, *tensors: Tensor) -> tuple:
        """A batch of lists is one longer list."""
        batch = info.batch_size
        unbound = [
            [t] * batch if dim is None else list(t.unbind(dim)) for t, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        groups = [[items[b] for b in range(batch) for items in third] for third in _thirds(unbound)]
        weights, us, vs, sigmas = spectral_norm(*groups, options)
        n = len(tensors) // 3
        stacked = [torch.stack(third[i::n]) for third in (weights, us, vs) for i in range(n)]
        return (*stacked, sigmas.view(batch, n)), (0,) * (3 * n + 1)


def _save(
    ctx: Any,
    options: Options,
    weights: Sequence[Tensor],
    weights_out: Sequence[Tensor],
    us_out: Sequence[Tensor],
    vs_out: Sequence[Tensor],
    sigmas: Tensor,
) -> None:
    ctx.out_dtype = options.out_dtype
    frozen = [out for weight, out in zip(weights, weights_out, strict=True) if not weight.requires_grad]
    ctx.mark_non_differentiable(*us_out, *vs_out, *frozen)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*weights, *us_out, *vs_out, sigmas)


def _backward_saved(ctx: Any, grads: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor | None]:
    *saved, sigmas = ctx.saved_tensors
    return _gradients(_backward, wanted, grads[:-1], grads[-1], *_thirds(saved), sigmas, ctx.out_dtype)


def _thirds(items: Sequence) -> tuple[Sequence, Sequence, Sequence]:
    n = len(items) // 3
    return items[:n], items[n : 2 * n], items[2 * n :]


def _setup_traced(ctx: Any, inputs: tuple, output: tuple) -> None:
    weights, *_, out_dtype = inputs
    _, us, vs, sigmas = output
    ctx.wanted = [weight.requires_grad for weight in weights]
    ctx.out_dtype = out_dtype
    ctx.save_for_backward(*weights, *us, *vs, sigmas)


def _backward_traced(ctx: Any, grads: Sequence, grad_us: Any, grad_vs: Any, grad_sigmas: Tensor | None) -> tuple:
    *saved, sigmas = ctx.saved_tensors
    dweights = _gradients(
        registered("spectral_norm_backward"),
        ctx.wanted,
        grads,
        grad_sigmas,
        *_thirds(saved),
        sigmas,
        ctx.out_dtype,
    )
    nothing = [None] * len(dweights)
    return dweights, nothing, nothing, *[None] * len(Options._fields)


torch.library.impl("fastgan::spectral_norm", "default", _forward)
torch.library.register_fake("fastgan::spectral_norm", _fake)
torch.library.register_autograd("fastgan::spectral_norm", _backward_traced, setup_context=_setup_traced)
torch.library.impl("fastgan::spectral_norm_backward", "default", _backward)
torch.library.register_fake("fastgan::spectral_norm_backward", _fake_backward)
register_decomposition("spectral_norm", reference.forward)
register_decomposition("spectral_norm_backward", reference.backward)
