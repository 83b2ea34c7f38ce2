"""Calls in which what torch.compile was put on runs as written."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from fastgan.intercept import ProcessWide
from fastgan.modes import keep_grad_mode


def uncompiled(function: Callable) -> Callable:
    """Run all of a call eagerly: compiled code can be neither watched nor differentiated twice."""

    @torch._disable_dynamo
    def eager(*args: Any, **kwargs: Any) -> Any:
        return FORCE_EAGER.run(lambda: function(*args, **kwargs))

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Nothing is compiled before Dynamo is imported, which takes long.
        call = eager if "torch._dynamo" in sys.modules else function
        return keep_grad_mode(lambda: call(*args, **kwargs))

    return run


def _stance() -> Any:
    return torch._dynamo.eval_frame._stance


def _set_stance(stance: Any) -> None:
    dynamo = torch._dynamo.eval_frame
    dynamo._set_stance(dynamo.DynamoStance(stance) if isinstance(stance, str) else stance)


# As torch.compiler.set_stance, which does not tell the stance before it.
FORCE_EAGER = ProcessWide(_stance, _set_stance, "force_eager")
