"""Calls of torch functions, seen from outside and brought to one form."""

from fastgan.intercept.calls import Call, canonical, user_line

__all__ = ["Call", "canonical", "user_line"]
