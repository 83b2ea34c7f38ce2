"""Checkpoints: one safetensors file whose header carries a JSON record. No pickle."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from fastgan.train.extras import require

FORMAT = 1
EXPECTED = "expected a checkpoint written by fastgan train"


def save(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write `tensors` and the JSON-able `record` to `path`: whole and durable, or not at all.

    Written beside the target, fsynced, renamed; a reader or a crash sees the old file or the new one.
    """
    # clones: safetensors refuses tensors that share storage
    plain = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    data = require("safetensors.torch").save(plain, {"fastgan": json.dumps({"format": FORMAT, **record})})
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote: (tensors on the CPU, record).

    Raises FileNotFoundError, or ValueError that says what is wrong with the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        record = json.loads(metadata["fastgan"])
    except KeyError:
        raise ValueError(f"{path}: a safetensors file without a 'fastgan' record: {EXPECTED}") from None
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: malformed ({error}): {EXPECTED}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else record
        raise ValueError(f"{path}: format {found!r}, this version reads format {FORMAT}: {EXPECTED}")
    return tensors, record


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """A network's parameters and buffers under `prefix`."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def optimizer_tensors(prefix: str, optimizer: Adam) -> dict[str, Tensor]:
    """An optimizer's state under `prefix.<parameter's number>.<name>`; its hyperparameters are the config's."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{i}.{name}": tensor for i, entry in state.items() for name, tensor in entry.items()}


def restore_module(prefix: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load what `module_tensors` gave. Raises ValueError naming the first tensor that does not fit."""
    expected, found = module_tensors(prefix, module), _under(prefix, tensors)
    for name in found.keys() - expected.keys():
        raise ValueError(f"unexpected tensor {name!r}: this run's network has none of that name")
    for name, tensor in expected.items():
        check_tensor(name, found.get(name), tensor)
    module.load_state_dict({name.removeprefix(f"{prefix}."): tensor for name, tensor in found.items()})


def restore_optimizer(prefix: str, optimizer: Adam, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` gave. Raises ValueError naming the first tensor that does not fit."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found, state = _under(prefix, tensors), {}
    for i, parameter in enumerate(parameters):
        state[i] = {"step": torch.zeros(()), "exp_avg": parameter.detach(), "exp_avg_sq": parameter.detach()}
        for name, like in state[i].items():
            key = f"{prefix}.{i}.{name}"
            check_tensor(key, found.pop(key, None), like)
            # in the parameter's memory layout, as the optimizer had it
            state[i][name] = torch.empty_like(like).copy_(tensors[key])
    for key in found:
        raise ValueError(f"unexpected tensor {key!r}: this run's optimizer has none of that name")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def check_tensor(name: str, found: Tensor | None, expected: Tensor) -> None:
    """Raise ValueError unless `found` has the shape and dtype of `expected`."""
    wanted = f"expected {expected.dtype} {list(expected.shape)}"
    if found is None:
        raise ValueError(f"tensor {name!r} is missing: {wanted}")
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ValueError(f"tensor {name!r} is {found.dtype} {list(found.shape)}: {wanted}")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable, where the platform lets a folder be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
