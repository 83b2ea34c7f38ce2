"""Calls of torch functions, seen from outside and brought to one form."""

from fastgan.intercept.calls import Call, canonical, user_line
from fastgan.intercept.nested import replaced, tensors_in

__all__ = ["Call", "canonical", "replaced", "tensors_in", "user_line"]
