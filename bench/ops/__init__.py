"""Ops of `fastgan.functional` with kernels of their own, one file each or one for several that are measured alike."""
