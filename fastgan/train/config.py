"""Every setting of a training run, once: the command line's flags and a checkpoint's record are read off the fields.

`Config` has what every recipe has; a recipe's `Settings` are a subclass with defaults and settings of its own.
"""

from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from math import isfinite
from typing import Any, get_args

from fastgan.train.step import PENALTIES

TYPES = (int, float, bool, str)


def setting(default: Any, meaning: str, *, may_change: bool = False, **limits: Any) -> Any:
    """A field: what it means, whether a resumed run may change it, its limits (`minimum`, `below`, `choices`)."""
    return field(default=default, metadata={"help": meaning, "may_change": may_change, **limits})


def default(name: str, value: Any) -> Any:
    """A field of `Config` with another default, for a recipe's settings."""
    return field(default=value, metadata=next(spec for spec in fields(Config) if spec.name == name).metadata)


@dataclass(frozen=True)
class Config:
    """Settings of one run, checked. Raises ValueError naming a bad one."""

    # A resumed run finds its data elsewhere, perhaps, but the same: a checkpoint holds their digest.
    data: str = setting("", "what to train on; what a recipe takes is in its description", may_change=True)
    out: str = setting("runs/latest", "folder for samples, log and checkpoint, of one run alone", may_change=True)
    steps: int = setting(
        50_000, "generator steps in all, counted from the start of the run", minimum=1, may_change=True
    )
    minutes: float | None = setting(
        None, "stop after this time, even before the last step", minimum=0.0, may_change=True
    )
    batch: int = setting(64, "samples per batch", minimum=2, below=2**20)  # batch norm needs two
    lr_g: float = setting(2e-4, "Adam's learning rate for the generator", minimum=0.0, may_change=True)
    lr_d: float = setting(2e-4, "Adam's learning rate for the discriminator", minimum=0.0, may_change=True)
    lr_decay: float = setting(1.0, "factor of both learning rates at the last step, reached in a line", minimum=0.0)
    beta1: float = setting(0.0, "Adam's first decay rate", minimum=0.0, below=1.0)
    beta2: float = setting(0.9, "Adam's second decay rate", minimum=0.0, below=1.0)
    n_critic: int = setting(5, "discriminator updates per step", minimum=1)
    ema_decay: float = setting(
        0.9999,
        "decay of the generator's moving average, reached from 0.1 on as (1 + t) / (10 + t)",
        minimum=0.0,
        below=1.0,
    )
    penalty: str = setting("none", "gradient penalty, added to D's hinge loss", choices=tuple(PENALTIES))
    penalty_weight: float = setting(10.0, "gamma of R1 and R2, weight of WGAN-GP", minimum=0.0)
    penalty_every: int = setting(1, "discriminator updates per penalty, which is then scaled by it", minimum=1)
    plain: bool = setting(False, "plain PyTorch: no op of fastgan's, the same results", may_change=True)
    precision: str = setting("fp32", "of forwards and losses; bf16 is torch's autocast", choices=("fp32", "bf16"))
    seed: int = setting(0, "seed of weights, latents and the order of samples", minimum=0, below=2**63)
    device: str = setting("auto", "cpu, cuda, cuda:1, ...; 'auto' takes a GPU where there is one", may_change=True)
    log_every: int = setting(10, "steps between lines of log.jsonl", minimum=1, may_change=True)
    sample_every: int = setting(1000, "steps between sample grids", minimum=1, may_change=True)
    checkpoint_every: int = setting(1000, "steps between checkpoints", minimum=1, may_change=True)

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, _checked(spec, getattr(self, spec.name)))

    def to_json(self) -> dict[str, Any]:
        """The settings by name, as JSON knows them."""
        return asdict(self)

    @classmethod
    def from_json(cls, settings: Any) -> "Config":
        """What `to_json` gave, perhaps read from a file. Raises ValueError when it is not that."""
        names = [spec.name for spec in fields(cls)]
        if not isinstance(settings, dict):
            raise ValueError(f"settings are {settings!r}: expected an object with names among {', '.join(names)}")
        for name in settings.keys() - set(names):
            raise ValueError(f"unknown setting {name!r}: expected one of {', '.join(names)}")
        for spec in fields(cls):
            if spec.default is MISSING and spec.name not in settings:
                raise ValueError(f"{spec.name} is missing: it has no default")
        return cls(**settings)

    def check_continues(self, settings: Any) -> None:
        """Raise ValueError unless these settings continue a run of `settings`, as `to_json` gave them."""
        before = self.from_json(settings)
        for spec in fields(self):
            now, then = getattr(self, spec.name), getattr(before, spec.name)
            if now != then and not spec.metadata["may_change"]:
                may = ", ".join(spec.name for spec in fields(self) if spec.metadata["may_change"])
                raise ValueError(f"{spec.name} = {now!r}: this run began with {then!r}; what may change is {may}")


def value_type(spec: Field) -> type:
    """The plain type of a setting: `float` for `float | None`."""
    return next((t for t in get_args(spec.type) if t is not type(None)), spec.type)


def check_fields(kind: type[Config]) -> None:
    """Raise ValueError unless every setting was made by `setting` or `default`, of a type that a flag can have."""
    for spec in fields(kind):
        if "may_change" not in spec.metadata:
            raise ValueError(f"setting {spec.name!r}: expected {spec.name}: TYPE = fastgan.train.setting(...)")
        if value_type(spec) not in TYPES:
            told = "int, float, bool or str, as a type: without `from __future__ import annotations`"
            raise ValueError(f"setting {spec.name!r} is of type {spec.type!r}: expected {told}")


def _checked(spec: Field, value: Any) -> Any:
    """`value` in the setting's type, or a ValueError that says what came and what is accepted."""
    if value is None and spec.default is None:
        return None
    wanted, limits, told = value_type(spec), spec.metadata, f"{spec.name} = {value!r}"
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise ValueError(f"{told}: expected {wanted.__name__}")
    if wanted is float and not isfinite(value):
        raise ValueError(f"{told}: expected a finite number")
    if "choices" in limits and value not in limits["choices"]:
        raise ValueError(f"{told}: expected one of {', '.join(map(str, limits['choices']))}")
    if "minimum" in limits and value < limits["minimum"]:
        raise ValueError(f"{told}: expected at least {limits['minimum']}")
    if "below" in limits and value >= limits["below"]:
        raise ValueError(f"{told}: expected less than {limits['below']}")
    return value
