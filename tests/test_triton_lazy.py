"""fastgan where triton is missing, or not wanted."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(code: str) -> None:
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
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
    """Every public function and module, an accelerated step, the doctor: with an import of triton that fails."""
    run("""
import sys

class NoTriton:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")

sys.meta_path.insert(0, NoTriton())
sys.modules["triton"] = None  # what importlib.util.find_spec then takes for missing
import fastgan, torch
from fastgan import doctor
from fastgan.penalty import R1, penalized_loss
from fastgan.bench import cli  # its parser and its cases too

assert fastgan.backends.available()["triton"].reason.startswith("triton is not installed")
import public_ops
public_ops.run_all()
D = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.LeakyReLU(0.2), torch.nn.Flatten(), torch.nn.Linear(64, 1))
fastgan.accelerate(D)
for _ in range(2):
    penalized_loss(D, torch.randn(2, 3, 6, 6), penalties=[R1(1.0)]).loss.backward()
assert doctor.examine()["ok"]
try:
    with fastgan.backend("triton"):
        raise AssertionError("the triton backend was taken")
except RuntimeError as error:
    assert "triton is not installed" in str(error) and "pip install triton" in str(error), error
""")
