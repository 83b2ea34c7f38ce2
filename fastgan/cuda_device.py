"""What a CUDA device must have so that the compiled kernels or Triton's run on it: its capability, and the driver's."""

import torch

from fastgan import _build_info

# The oldest that Triton supports.
TRITON_CAPABILITY = (8, 0)


def devices() -> list[torch.device]:
    """The CUDA devices that torch sees."""
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def why_not_compiled(device: torch.device) -> str:
    """Why the compiled kernels cannot run on a CUDA device; empty if they can.

    Machine code for sm_XY runs on devices of the same major capability X and a minor one of Y or more. PTX for
    compute_XY runs on every device of capability X.Y or more, where the driver can compile it: it must be as new as the
    toolkit that made the PTX. The runtime itself needs a driver of its own major version.
    """
    capability = torch.cuda.get_device_capability(device)
    has = f"it has compute capability {_dotted(capability)}"
    built = f"this build has code for {', '.join(_build_info.CUDA_ARCHS)} (FASTGAN_CUDA_ARCHS says which)"
    runtime, driver = cuda_versions()
    if driver[0] < runtime[0]:
        return f"the driver supports CUDA {_dotted(driver)}, and this build needs CUDA {runtime[0]}"
    machine, ptx = (
        [_capability(arch) for arch in _build_info.CUDA_ARCHS if arch.startswith(kind)] for kind in ("sm_", "compute_")
    )
    if any(major == capability[0] and minor <= capability[1] for major, minor in machine):
        return ""
    if not any(oldest <= capability for oldest in ptx):
        return f"{has}, and {built}"
    if driver < runtime:
        needs = f"a driver for CUDA {_dotted(runtime)} has to compile its PTX; this one supports {_dotted(driver)}"
        return f"{has}, and {built}: {needs}"
    return ""


def why_not_triton(device: torch.device) -> str:
    """Why Triton's kernels cannot run on a CUDA device; empty if they can."""
    capability = torch.cuda.get_device_capability(device)
    if capability >= TRITON_CAPABILITY:
        return ""
    return f"it has compute capability {_dotted(capability)}, and Triton needs {_dotted(TRITON_CAPABILITY)}"


def cuda_versions() -> tuple[tuple[int, int], tuple[int, int]]:
    """The CUDA version (major, minor) of the runtime in `fastgan._C`, and the newest one that the driver supports.

    Without a driver the second is (0, 0). The build must have CUDA.
    """
    from fastgan import _C

    return tuple((version // 1000, version % 1000 // 10) for version in _C.cuda.versions())


def _capability(arch: str) -> tuple[int, int]:
    return divmod(int(arch.rpartition("_")[2]), 10)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
