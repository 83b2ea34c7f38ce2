"""Spectral norm of a list of weights as one op.

    u_first:  u <- W v / |W v|;   v <- W^T u / |W^T u|          v_first:  the same two, v before u
    sigma = u^T W v               W_hat = W / sigma             (every |x| that divides is max(|x|, eps))
    dW = (dW_hat - <dW_hat, W>/sigma * u v^T) / sigma + dsigma * u v^T          with u and v held constant

In eager mode an autograd.Function calls the backend; where something traces, `torch.ops.fastgan.spectral_norm` is.
A backward that is itself differentiated is the reference's, plain torch: so every order is right.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastgan import backends, check
from fastgan.ops.layout import empty_dense, from_memory, memory_order, to_memory
from fastgan.ops.op import Op, is_traced, raise_no_forward_mode
from fastgan.reference import spectral_norm as reference

ORDERS = ("u_first", "v_first")


class Options(NamedTuple):
    """What is not a tensor, in the order of the schema."""

    n_power_iterations: int
    eps: float
    training: bool
    u_first: bool
    out_dtype: torch.dtype


class SpectralNormResult(NamedTuple):
    """What `spectral_norm` returns: lists in the order of the weights, and sigmas [L]."""

    weights: list[Tensor]
    us: list[Tensor]
    vs: list[Tensor]
    sigmas: Tensor


def spectral_norm(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    *,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    training: bool = True,
    order: Literal["u_first", "v_first"] = "u_first",
    out_dtype: torch.dtype | None = None,
) -> SpectralNormResult:
    """Divide every weight of a list by its largest singular value, all of them in one grouped call.

        u <- W v / max(|W v|, eps)      v <- W^T u / max(|W^T u|, eps)      sigma = u^T W v      W_hat = W / sigma

    Args:
        weights: L tensors [m, ...], each taken as a matrix [m, n]; float64, float32, bfloat16 or float16, one dtype and
            one device for all, any strides. The result is computed in float32 or better.
        us: L tensors [m], of the weights' dtype and device: the left singular vectors as estimated so far.
        vs: L tensors [n]: the right ones.
        n_power_iterations: how often u and v are iterated before sigma is taken.
        eps: the smallest norm that is divided by.
        training: False takes sigma from the given u and v, and returns copies of them.
        order: "u_first" iterates u, then v, as `torch.nn.utils.parametrizations.spectral_norm` does; "v_first" iterates
            v, then u, as `torch.nn.utils.spectral_norm` does.
        out_dtype: dtype of the normalised weights; None for the weights' own.

    Returns:
        `weights`, with the shapes and, where they are dense, the strides of the inputs; `us` and `vs`, new tensors
        through which no gradient flows; `sigmas` [L], float32 for half precision, else of the weights' dtype. No two of
        them share storage. A NaN or an infinity in one weight reaches only the results of that weight.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        RuntimeError: the backend that was asked for cannot run here.

    Derivatives: `weights` and `sigmas` with respect to the input weights, u and v held constant as in torch; reverse
    mode to any order. Forward mode raises NotImplementedError.

    Source: T. Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR 2018, section 2 and
    appendix A.
    """
    _check(weights, us, vs, n_power_iterations, eps, order, out_dtype)
    options = Options(n_power_iterations, eps, training, order == "u_first", out_dtype or weights[0].dtype)
    return SpectralNormResult(*normalized(weights, us, vs, options))


def _check(weights: Any, us: Any, vs: Any, n_power_iterations: Any, eps: Any, order: Any, out_dtype: Any) -> None:
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


def normalized(
    weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], options: Options
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """The op, for arguments that were checked."""
    if is_traced(*weights):
        weights, us, vs, sigmas = _forward.traced(weights, us, vs, *options)
        return weights, [u.detach() for u in us], [v.detach() for v in vs], sigmas
    if torch._C._are_functorch_transforms_active():
        *out, sigmas = _TransformedSpectralNorm.apply(options, *weights, *us, *vs)
        return *_thirds(out), sigmas
    new_us: list[Tensor] = []
    new_vs: list[Tensor] = []
    *weights_out, sigmas = _SpectralNorm.apply(options, us, vs, new_us, new_vs, *weights)
    return weights_out, new_us, new_vs, sigmas


# --- forward ---


def _run(
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


def _run_backward(
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
    if torch.is_grad_enabled():  # under create_graph the gradient is differentiated again
        run = reference.backward
    else:
        run = _backward.traced if is_traced(sigmas, *dense) else _backward.run
    dweights = run(dense, grad_sigmas, chosen_weights, chosen_us, chosen_vs, sigmas)
    for i, dweight in zip(chosen, dweights, strict=True):
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
        weights_out, us_out, vs_out, sigmas = _forward.run(weights, us, vs, *options)
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
        weights, us, vs, sigmas = _forward.run(*_thirds(tensors), *options)
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
        with torch.enable_grad():  # the plain formula, whose tensors may be transformed
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
        weights, us, vs, sigmas = normalized(*groups, options)
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
    return _gradients(wanted, grads[:-1], grads[-1], *_thirds(saved), sigmas, ctx.out_dtype)


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
    dweights = _gradients(ctx.wanted, grads, grad_sigmas, *_thirds(saved), sigmas, ctx.out_dtype)
    nothing = [None] * len(dweights)
    return dweights, nothing, nothing, *[None] * len(Options._fields)


_forward = Op(
    "spectral_norm(Tensor[] weights, Tensor[] us, Tensor[] vs, int n_power_iterations, float eps, bool training, "
    "bool u_first, ScalarType out_dtype) -> (Tensor[], Tensor[], Tensor[], Tensor)",
    _run,
    _fake,
    reference.forward,
)
torch.library.register_autograd("fastgan::spectral_norm", _backward_traced, setup_context=_setup_traced)
_backward = Op(
    "spectral_norm_backward(Tensor[] grads, Tensor? grad_sigmas, Tensor[] weights, Tensor[] us, Tensor[] vs, "
    "Tensor sigmas) -> Tensor[]",
    _run_backward,
    _fake_backward,
    reference.backward,
)
