"""Bilinear sampling whose gradient for the image can be differentiated again, as augmentation under a penalty needs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fastgan.autocast import autocast_dtype

# aten's codes for "bilinear" and "zeros".
_OPTIONS = 0, 0, False


def _is_twice_differentiable() -> bool:
    """Whether torch's own can be differentiated twice, as that of torch 2.13 can."""
    with torch.inference_mode(False), torch.enable_grad():
        image, grid = (torch.zeros(shape, device="cpu", requires_grad=True) for shape in ((1, 1, 2, 2), (1, 1, 1, 2)))
        y = F.grid_sample(image, grid, align_corners=False)
        gradients = torch.autograd.grad(y.square().sum(), (image, grid), create_graph=True)
        try:
            torch.autograd.grad(sum(g.sum() for g in gradients), (image, grid))
        except RuntimeError:
            return False
    return True


_TORCH_HAS_IT = _is_twice_differentiable()


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:  # noqa: A002  torch's name
    """`torch.nn.functional.grid_sample(input, grid, align_corners=False)`: bilinear, zeros outside.

    Args:
        input: images [N, C, H, W].
        grid: where to sample them, [N, H', W', 2], x then y, -1 to 1.

    Returns:
        [N, C, H', W']. Under autocast, of the dtype that torch's function returns there.

    Derivatives: where torch's own can be differentiated twice, those of torch. Else with respect to input and grid, and
    of the gradient with respect to the upstream one, any order; its derivative with respect to the grid raises
    NotImplementedError.
    """
    if _TORCH_HAS_IT:
        return F.grid_sample(input, grid, align_corners=False)
    if autocast_dtype(input.device.type):
        # Autocast knows torch's function, not ours: it is asked what it would make of them.
        dtype = F.grid_sample(input[:0], grid[:0], align_corners=False).dtype
        input, grid = input.to(dtype), grid.to(dtype)  # noqa: A001
    return _GridSample.apply(input, grid)


class _GridSample(Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(image, grid)
        return torch.ops.aten.grid_sampler_2d(image, grid, *_OPTIONS)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        wanted = tuple(ctx.needs_input_grad)
        dx, dgrid = _Backward.apply(dy, *ctx.saved_tensors, wanted)
        return dx if wanted[0] else None, dgrid if wanted[1] else None


class _Backward(Function):
    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, image: Tensor, grid: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(grid)
        ctx.set_materialize_grads(False)
        dx, dgrid = torch.ops.aten.grid_sampler_2d_backward(dy, image, grid, *_OPTIONS, wanted)
        return dx if wanted[0] else None, dgrid if wanted[1] else None

    @staticmethod
    def backward(ctx: Any, ddx: Tensor | None, ddgrid: Tensor | None) -> tuple[Tensor | None, ...]:
        (grid,) = ctx.saved_tensors
        if ddgrid is not None or ctx.needs_input_grad[2]:
            raise NotImplementedError("the gradient of grid_sample cannot be differentiated with respect to the grid")
        # dx is linear in dy, and does not depend on the image.
        return None if ddx is None else _GridSample.apply(ddx, grid), None, None, None
