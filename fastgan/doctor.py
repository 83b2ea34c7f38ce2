"""`fastgan doctor`: what is installed, which backends work here, and whether their results are right."""

import argparse
import json
from collections.abc import Callable
from math import isfinite

import torch

from fastgan import _build_info, backend, backends, cuda_device, functional
from fastgan.bench.workload import relative_error
from fastgan.environment import device_name, versions
from fastgan.reference import interpolate, sample_norm, scale_samples
from fastgan.reference import spectral_norm as reference

# A convolution, a linear layer and an odd shape, so that a call has more than one layer and tails.
SHAPES = ((64, 32, 3, 3), (10, 256), (7, 13))
# Batches of small samples, of large ones, and of odd ones.
BATCHES = ((64, 3, 4, 4), (4, 3, 64, 64), (3, 5, 7))
BOUND = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add doctor's one option."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 if a backend is wrong."""
    findings = examine()
    print(json.dumps(findings, indent=1) if args.json else to_text(findings))
    return 0 if findings["ok"] else 1


def examine() -> dict[str, object]:
    """All findings as JSON values; `ok` is False if an available backend failed or computed something wrong."""
    devices = [torch.device("cpu"), *cuda_device.devices()]
    found = {}
    for name, (ok, reason) in backends.available().items():
        refused = {device: backends.refusal(name, "spectral_norm", device) for device in devices}
        checks = [_check(name, device) for device in devices if ok and not refused[device]]
        # One of several GPUs that a backend does not run on; that cpu tensors are not cuda's needs no word.
        kinds = {check["device"].partition(":")[0] for check in checks}
        unused = {str(device): why for device, why in refused.items() if why and device.type in kinds}
        found[name] = {"available": ok, "reason": reason, "checks": checks, "not_used": unused}
    return {
        "versions": versions(),
        "devices": {str(device): device_name(device) for device in devices},
        "build": {
            "compiler": _build_info.COMPILER,
            "cpu_levels": list(_build_info.CPU_LEVELS),
            "cpu_level_used": backends.environment().cpu_level,
            "nvcc": _build_info.NVCC,
            "cuda_architectures": list(_build_info.CUDA_ARCHS),
            "cuda_runtime": _cuda_runtime(),
        },
        "backends": found,
        "ok": all(check["ok"] for entry in found.values() for check in entry["checks"]),
    }


def to_text(findings: dict) -> str:
    """The findings for a terminal."""
    lines = []
    for section in ("versions", "devices", "build"):
        lines += ["", section, *(f"  {name:20}{_text(value)}" for name, value in findings[section].items())]
    lines += ["", "backends"]
    for name, entry in findings["backends"].items():
        checks = [f"{check['device']}: {check['message']}" for check in entry["checks"]]
        checks += [f"{device}: not used: {reason}" for device, reason in entry["not_used"].items()]
        lines.append(f"  {name:20}{'; '.join(checks) if entry['available'] else 'not available: ' + entry['reason']}")
    lines += ["", "all well" if findings["ok"] else "a backend is WRONG"]
    return "\n".join(lines[1:])


def _text(value: object) -> str:
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value or "")) or "-"


def _cuda_runtime() -> str:
    """The version that is linked in, and what the driver supports; empty where the build has no CUDA."""
    if not _build_info.CUDA:
        return ""
    try:
        runtime, driver = (".".join(map(str, version)) for version in cuda_device.cuda_versions())
    except ImportError as error:
        return f"FAILED: {error}"
    return f"{runtime}, " + (f"the driver supports {driver}" if driver != "0.0" else "no driver")


def _check(name: str, device: torch.device) -> dict[str, object]:
    """Every op, forward and backward, on one device; any exception is a finding."""
    try:
        with backend(name):
            errors = {op: error(device) for op, error in ERRORS.items()}
    except Exception as raised:
        message = f"FAILED: {type(raised).__name__}: {raised}"
        return {"device": str(device), "ok": False, "error": None, "message": message}
    error = max(errors.values())
    wrong = [op for op, error in errors.items() if not error <= BOUND]
    message = f"WRONG ({', '.join(wrong)})" if wrong else "right"
    return {
        "device": str(device),
        "ok": not wrong,
        "error": error if isfinite(error) else None,
        "message": f"{message}, relative error {error:.0e}",
    }


def _spectral_norm_error(device: torch.device) -> float:
    """The largest relative error of weights, u, v, sigma and gradients in float32, against the reference in float64."""
    random = _random(device)
    weights = [random(*shape).requires_grad_() for shape in SHAPES]
    matrices = [weight.detach().flatten(1).double() for weight in weights]
    us, vs = [random(m.shape[0]) for m in matrices], [random(m.shape[1]) for m in matrices]
    grads = [random(*shape) for shape in SHAPES]

    result = functional.spectral_norm(weights, us, vs)
    gradients = torch.autograd.grad(result.weights, weights, grads)
    doubles = [[t.double() for t in tensors] for tensors in (us, vs)]
    expected = reference.forward(matrices, *doubles, 1, 1e-12, True, True, torch.float64)
    expected_gradients = reference.backward([g.flatten(1).double() for g in grads], None, matrices, *expected[1:])

    actual = [*(w.flatten(1) for w in result.weights), *result.us, *result.vs, result.sigmas]
    actual += [g.flatten(1) for g in gradients]
    wanted = [*expected[0], *expected[1], *expected[2], expected[3], *expected_gradients]
    return max(relative_error(a.detach(), b) for a, b in zip(actual, wanted, strict=True))


def _samples_error(device: torch.device) -> float:
    """The same of the ops on a batch of samples."""
    random, errors = _random(device), []
    for shape in BATCHES:
        x, fake, c, dy = random(*shape).requires_grad_(), random(*shape), random(shape[0]), random(*shape)
        doubles = [t.detach().double() for t in (x, fake, c, dy)]
        norms, squares = functional.sample_norm(x), functional.sample_norm(x, squared=True)
        scaled, mixed = functional.scale_samples(x, c), functional.interpolate(x, fake, c)
        expected_norms = sample_norm.forward(doubles[0], squared=False)
        pairs = [
            (norms, expected_norms),
            (squares, sample_norm.forward(doubles[0], squared=True)),
            (scaled, scale_samples.forward(doubles[0], doubles[2])),
            (mixed, interpolate.forward(*doubles[:3])),
        ]
        pairs += zip(
            (torch.autograd.grad(y, x, grad)[0] for y, grad in ((norms, c), (squares, c), (scaled, dy), (mixed, dy))),
            (
                sample_norm.backward(doubles[2], doubles[0], expected_norms),
                sample_norm.backward(doubles[2], doubles[0], None),
                *[scale_samples.forward(doubles[3], doubles[2])] * 2,
            ),
            strict=True,
        )
        errors += [relative_error(actual.detach(), expected) for actual, expected in pairs]
    return max(errors)


def _random(device: torch.device) -> Callable[..., torch.Tensor]:
    """What draws a tensor of a shape, the same ones on every machine."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator).to(device)


ERRORS = {"spectral_norm": _spectral_norm_error, "samples": _samples_error}
