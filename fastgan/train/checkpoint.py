"""Checkpoints: one safetensors file whose header carries a JSON record. No pickle."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from fastgan.train.extras import require
from fastgan.train.files import write_whole

FORMAT = 3
EXPECTED = "expected a checkpoint written by fastgan train"


def save(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write `tensors` and the JSON-able `record` to `path`: whole and durable, or not at all.

    Raises FloatingPointError, and leaves the file as it was, when a tensor holds what is not finite.
    """
    # copies: safetensors refuses tensors that share storage
    plain = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach()) for name, tensor in tensors.items()
    }
    check_finite(plain)
    data = require("safetensors.torch").save(plain, {"fastgan": json.dumps({"format": FORMAT, **record})})
    write_whole(path, data)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise FloatingPointError naming the first tensor that holds NaN or infinity."""
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise FloatingPointError(f"tensor {bad[0]!r} is not finite (the first of {len(bad)} among {len(tensors)})")


def load_record(path: Path) -> dict[str, Any]:
    """The record of what `save` wrote. Raises as `load` does."""
    with _opened(path) as (_, record):
        return record


def load(path: Path, under: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote: (tensors on the CPU, record). With `under`, only the tensors of that prefix are read.

    Raises FileNotFoundError, or ValueError that says what is wrong with the file.
    """
    with _opened(path) as (file, record):
        names = [name for name in file.keys() if not under or name.startswith(f"{under}.")]  # noqa: SIM118 (not a dict)
        return {name: file.get_tensor(name) for name in names}, record


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The safetensors file and its record."""
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a folder, expected a checkpoint, such as {path / 'checkpoint.safetensors'}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["fastgan"])
            if not isinstance(record, dict) or record.get("format") != FORMAT:
                found = record.get("format") if isinstance(record, dict) else record
                raise ValueError(f"{path}: format {found!r}, this version reads format {FORMAT}: {EXPECTED}")
            yield file, record
    except KeyError:
        raise ValueError(f"{path}: a safetensors file without a 'fastgan' record: {EXPECTED}") from None
    except (safetensors.SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: malformed ({error}): {EXPECTED}") from error


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
