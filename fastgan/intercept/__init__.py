"""Calls of torch functions, seen from outside and brought to one form."""

from fastgan.intercept.calls import Call, canonical, user_line
from fastgan.intercept.nested import replaced, tensors_in
from fastgan.intercept.process_wide import ProcessWide
from fastgan.modes import active, run_under

__all__ = ["Call", "ProcessWide", "active", "canonical", "replaced", "run_under", "tensors_in", "user_line"]
