"""Triton kernels, one module per op: every module here needs triton, this package itself does not.

`fastgan.backends` imports a module when it is picked, and says why when it cannot be.
"""
