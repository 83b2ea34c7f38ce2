"""What a call depends on besides its arguments, and whether it may be deferred at all."""

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks

from fastgan.modes import saved_tensor_hooks


def can_defer() -> bool:
    """Whether calls may be deferred here: nothing traces, transforms, or sees what is saved for a backward."""
    return not (
        torch.compiler.is_compiling()
        or get_eval_frame_callback() is not None
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or saved_tensor_hooks() is not None
    )


def _itself(tensor: Tensor) -> Tensor:
    return tensor


class TorchState(NamedTuple):
    """What a call depends on besides its arguments."""

    device: str
    grad: bool
    inference: bool
    autocast: tuple[bool, torch.dtype] | None  # None for devices that have none

    @classmethod
    def now(cls, device: str) -> "TorchState":
        """The one in force."""
        autocast = None
        if torch.amp.is_autocast_available(device):
            autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        return cls(device, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast)

    def restored(self) -> ExitStack:
        """A context in which it is in force again."""
        stack = ExitStack()
        # Of what `can_defer` asks for.
        if torch._C._are_functorch_transforms_active():
            stack.enter_context(temporarily_clear_interpreter_stack())
        if saved_tensor_hooks() is not None:
            stack.enter_context(saved_tensors_hooks(_itself, _itself))
        if self != TorchState.now(self.device):
            stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.grad))
            if self.autocast is not None:
                enabled, dtype = self.autocast
                stack.enter_context(torch.autocast(self.device, dtype=dtype, enabled=enabled))
        return stack
