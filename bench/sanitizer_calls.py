"""Small calls of every GPU kernel, for compute-sanitizer: `python -m fastgan.bench.sanitizer_calls cuda [KERNEL...]`.

Tests compare; this only calls.
"""

import sys

import torch

from fastgan import backend
from fastgan.bench.registry import OPS

CALLS = {kernel: calls for op in OPS.values() for kernel, calls in op.kernels.items()}


def main(name: str, *kernels: str) -> None:
    """Make the calls of these kernels, or all that there are, on one backend."""
    with backend(name):
        for calls in dict.fromkeys(CALLS[kernel] for kernel in kernels or CALLS):
            calls()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
