"""Benchmarks of fastgan against plain PyTorch: `fastgan bench`.

What is measured is in ops/, layers/ and steps/, one file each, found by its name (registry.py); programs/ has the
codebases that steps/codebases.py measures. workload.py says what such a file provides, runner.py and timing.py measure
it, results.py and report.py write it down. gpu.sh does all of it on a machine with a GPU.
"""
