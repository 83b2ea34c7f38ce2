"""The arguments with which tests.public_ops calls each public function: for tests that change one of them."""

import inspect
from collections.abc import Callable
from typing import Any
from unittest import mock

from fastgan import functional
from public_ops import FUNCTIONS


def first_call(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A public function, and by name the arguments of its first call."""
    function, calls = getattr(functional, name), []

    def noted(*args, **kwargs):
        calls.append(inspect.signature(function).bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    with mock.patch.object(functional, name, noted):
        FUNCTIONS[name]()
    return function, calls[0]
