"""fastgan where triton is missing, or not wanted."""

import subprocess
import sys


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_triton_is_imported_only_when_it_runs():
    # Dynamo imports it, and takes as long to import as the rest of torch.
    run("""
import sys
import fastgan, fastgan.kernels, torch
fastgan.backends.available()
weight = torch.ones(2, 3, requires_grad=True)
fastgan.functional.spectral_norm([weight], [torch.ones(2)], [torch.ones(3)]).weights[0].sum().backward()
assert not {"triton", "torch._dynamo"} & sys.modules.keys()
""")


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
