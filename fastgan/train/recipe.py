"""What a recipe is, and where one is found: by the name of a file in recipes/, or by the path of one's own."""

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastgan.train.config import Config, check_fields
from fastgan.train.step import Batch, hinge_d, hinge_g

_OWN = "recipe_"  # before the name of a module that no import finds


class Data(NamedTuple):
    """What is trained on, on the CPU: tensors [M, ...] of one length, such as images and their classes.

    held_out: the same, of samples that training does not see; for measures. classes: their names, where there are any.
    """

    train: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...] = ()
    classes: tuple[str, ...] = ()


class Recipe:
    """Networks, losses and data of one kind of GAN; a recipe's file has a subclass of this name.

    The first line of the file's docstring says what it is for. `Settings` are its options.
    """

    Settings: type[Config] = Config
    classes: int = 0  # of samples, which G and D are told; 0 for none. Known when the data are loaded, if not before.
    loss_d = staticmethod(hinge_d)
    loss_g = staticmethod(hinge_g)

    def __init__(self, settings: Config) -> None:
        self.settings: Any = settings

    def load(self) -> Data:
        """The data. Raises ValueError or OSError naming what cannot be read."""
        raise ValueError(self._lacks("load()"))

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """G and D, new, initialised from torch's global generator, on the CPU in float32."""
        raise ValueError(self._lacks("networks()"))

    def batch(self, samples: tuple[Tensor, ...], dtype: torch.dtype = torch.float32) -> Batch:
        """A batch of some of the data: the same tensors, fewer rows, on the device of training."""
        raise ValueError(self._lacks("batch()"))

    def latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """[n, z_dim], float32 on the CPU; from torch's global generator unless given one."""
        if not hasattr(self.settings, "z_dim"):
            raise ValueError(self._lacks("setting z_dim, and no latents()"))
        return torch.randn(n, self.settings.z_dim, generator=generator)

    def _lacks(self, what: str) -> str:
        return f"recipe {name_of(type(self))!r} has no {what} of its own"

    def given(self, n: int, chosen: int | None = None) -> tuple[Tensor, ...]:
        """What G takes beside n latents: the class that was chosen, or one after the other; of no classes, nothing."""
        if not self.classes:
            if chosen is not None:
                raise ValueError(f"class = {chosen}: this recipe has no classes")
            return ()
        if chosen is not None and not 0 <= chosen < self.classes:
            raise ValueError(f"class = {chosen}: expected 0 to {self.classes - 1}")
        return (torch.arange(n) % self.classes if chosen is None else torch.full((n,), chosen),)

    def as_images(self, samples: Tensor) -> Tensor:
        """Samples [N, ...] as the images [N, 1 or 3, H, W] in [-1, 1] that are drawn of them."""
        return samples

    def measure(self, G: nn.Module, data: Data) -> dict[str, float]:
        """How good G is when training ends, by name; with what real data reach beside it."""
        return {}


def names() -> list[str]:
    """The recipes that come with fastgan."""
    return sorted(path.stem for path in Path(__file__).with_name("recipes").glob("[!_]*.py"))


def find(name: str) -> type[Recipe]:
    """The recipe of this name, or of the Python file at this path. Raises ValueError saying what is accepted."""
    if name in names():
        return import_module(f"fastgan.train.recipes.{name}").Recipe
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"recipe {name!r}: expected one of {', '.join(names())}, or a Python file")
    if path.stem in names():  # a checkpoint has the file's name alone
        raise ValueError(f"recipe {name!r}: fastgan has one of this name: expected a file of another")
    spec = importlib.util.spec_from_file_location(_OWN + path.stem, path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = getattr(module, "Recipe", None)
    if not isinstance(recipe, type) or not issubclass(recipe, Recipe):
        raise ValueError(f"recipe {name!r}: expected a class Recipe, a subclass of fastgan.train.Recipe")
    try:
        check_fields(recipe.Settings)
    except ValueError as error:
        raise ValueError(f"recipe {name!r}: {error}") from error
    return recipe


def name_of(recipe: type[Recipe]) -> str:
    """What a checkpoint calls it: the name of its file."""
    return recipe.__module__.rpartition(".")[2].removeprefix(_OWN)


def description(recipe: type[Recipe]) -> str:
    """What it is for, in a line."""
    return (sys.modules[recipe.__module__].__doc__ or "").partition("\n")[0]
