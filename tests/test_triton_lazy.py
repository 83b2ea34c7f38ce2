"""fastgan where triton is missing, or not wanted."""

import subprocess
import sys


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_fastgan_does_not_import_triton():
    run("import sys, fastgan, fastgan.kernels; assert 'triton' not in sys.modules")


def test_fastgan_works_without_triton():
    run("""
import sys
sys.modules["triton"] = None  # what import finds where triton is not installed
import fastgan, fastgan.kernels, torch
assert fastgan.backends.available()["triton"].reason == "triton is not installed"
fastgan.functional.spectral_norm([torch.ones(2, 3)], [torch.ones(2)], [torch.ones(3)])
try:
    with fastgan.backend("triton"):
        raise AssertionError("the triton backend was taken")
except RuntimeError as error:
    assert "triton is not installed" in str(error), error
""")
