"""Public functions that can be watched and replaced as torch's own can."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch.overrides import handle_torch_function, has_torch_function


def overridable(function: Callable) -> Callable:
    """Offer every call to the active `TorchFunctionMode`s and to tensor subclasses first, by `__torch_function__`.

    So gradient penalties see one operation with a known rule, not the autograd.Function inside it.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = (*args, *kwargs.values()) if kwargs else args
        if has_torch_function(arguments):
            return handle_torch_function(call, arguments, *args, **kwargs)
        return function(*args, **kwargs)

    # Code of its own: torch.compile counts how often it has compiled the same code, and gives up.
    call.__code__ = call.__code__.replace(co_name=function.__name__)
    return call
