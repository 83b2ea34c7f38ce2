"""Benchmarks of fastgan's ops against plain PyTorch: `fastgan bench`."""
