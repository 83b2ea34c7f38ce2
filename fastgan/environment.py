"""What a measurement or a training run depends on: the machine, the versions, the compiler, the commit, the date."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from fastgan import _build_info


def describe(device: torch.device) -> dict[str, object]:
    """Everything that a result file or a log says about where it comes from, as JSON values."""
    return {
        "device": device_name(device),
        **versions(),
        "compiler": _build_info.COMPILER,
        "nvcc": _build_info.NVCC,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def versions() -> dict[str, str | None]:
    """Versions by name; None for what is not there."""
    return {
        "fastgan": _version("fastgan"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else None,
        "driver": _driver(),
    }


def device_name(device: torch.device) -> str:
    """What the machine calls the device."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    return f"{_cpu_model()}, {os.cpu_count()} cores"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _commit() -> str | None:
    """The commit of the source tree that runs, or FASTGAN_COMMIT where the tree was copied without its history."""
    source = Path(__file__).resolve().parent.parent
    if not (source / ".git").exists():
        return os.environ.get("FASTGAN_COMMIT")
    return _output("git", "-C", str(source), "describe", "--always", "--dirty", "--exclude=*")


def _output(*command: str) -> str | None:
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return text.splitlines()[0] if text else None
