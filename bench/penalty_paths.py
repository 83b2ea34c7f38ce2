"""Which way `penalized_loss` goes for each critic of the benchmark here: `python -m fastgan.bench.penalty_paths`.

On a GPU float32 convolutions run in TF32 unless that is switched off: a proof may say no there that says yes on a CPU.
"""

import sys

import torch

from fastgan.bench.steps.gradient_penalty import CASES, way


def main() -> int:
    """Print a line for each case; 1 if one of them raised."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways = {name: _way(name, device) for name in CASES}
    tf32 = "allowed" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "not used"
    sys.stdout.writelines(f"{name:24} {said}\n" for name, said in ways.items())
    sys.stdout.write(f"on {device}, TF32 {tf32}\n")
    return int(any(said.startswith("FAILED") for said in ways.values()))


def _way(name: str, device: torch.device) -> str:
    try:
        out = way(name, device)
    except Exception as error:
        return f"FAILED: {type(error).__name__}: {error}".partition("\n")[0]
    return f"{out.path}: {out.reason}"


if __name__ == "__main__":
    sys.exit(main())
