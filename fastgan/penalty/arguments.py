"""What `penalized_loss` takes, and the errors for anything else."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan import check
from fastgan.penalty.kinds import Penalty

ENGINES = ("auto", "linearized", "double_backward")
CHECKS = ("first", "always", "never")


def check_loss(
    real: Any, fake: Any, adversarial: Any, penalties: Any, every: Any, step: Any, engine: Any, checks: Any
) -> None:
    """Raise for arguments that are not as `penalized_loss` takes them."""
    for name, value in (("real", real), ("fake", fake)):
        if not isinstance(value, Tensor) and not (name == "fake" and value is None):
            raise TypeError(f"{name} must be a tensor [N, ...], got {check.short(value)}")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("penalized_loss takes gradients: call it under torch.no_grad, not torch.inference_mode")
    if adversarial is not None and not callable(adversarial):
        raise TypeError(f"adversarial must be a function of two tensors or None, got {check.describe(adversarial)}")
    for i, penalty in enumerate(penalties):
        if not isinstance(penalty, Penalty):
            raise TypeError(f"penalties[{i}] must be a penalty such as R1(gamma=10.0), got {check.describe(penalty)}")
    names = [penalty.name for penalty in penalties]
    if len(set(names)) < len(names):
        raise ValueError(f"penalties must have each name once, got {', '.join(names)}")
    if adversarial is None and not names:
        raise ValueError("adversarial and penalties must not both be left out")
    for name, value, least in (("every", every, 1), ("step", step, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {check.short(value)}")
    for name, value, accepted in (("engine", engine, ENGINES), ("check", checks, CHECKS)):
        check.choice(value, name, accepted)


def check_together(real: Tensor, fake: Tensor | None, real_args: Sequence[Any], fake_args: Sequence[Any]) -> None:
    """Raise where `together=True` does not go with these samples and arguments."""
    if fake is None:
        return
    if (fake.shape[1:], fake.device) != (real.shape[1:], real.device):
        raise ValueError(
            f"fake must be samples like real with together=True, {check.describe(real)}, got {check.describe(fake)}"
        )
    if len(real_args) != len(fake_args):
        raise ValueError(
            f"fake_args must be as many as real_args with together=True, {len(real_args)}, got {len(fake_args)}"
        )
    for i, (a, b) in enumerate(zip(real_args, fake_args, strict=True)):
        if is_of_samples(a) and is_of_samples(b):
            fits = (len(a), len(b), a.shape[1:], a.device) == (len(real), len(fake), b.shape[1:], b.device)
        else:
            fits = a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b))
        if not fits:
            raise ValueError(
                f"fake_args[{i}] must go with real_args[{i}] with together=True: tensors of samples, or the same for "
                f"both; got {check.describe(a)} and {check.describe(b)}"
            )


def is_of_samples(argument: Any) -> bool:
    """Whether it is one value for each sample, or more."""
    return isinstance(argument, Tensor) and argument.ndim > 0
