"""The card of an exported generator: what it is, how to run it, where it comes from. Markdown."""

import json
import platform
from pathlib import Path
from typing import Any

import torch

import fastgan
from fastgan.train.afterwards.text import readable
from fastgan.train.recipe import name_of
from fastgan.train.trained import Trained

# Settings that say where on a machine something was, and nothing about the model.
PLACES = ("data", "out", "device")

# What there is more where G takes classes.
CLASSES = {
    "pt2_classes": "\nclasses = torch.tensor([0, 0, 1, 1])",
    "and_classes": ", classes",
    "onnx_classes": "classes = numpy.array([0, 0, 1, 1])\n",
    "named_classes": ', "classes": classes',
}
LOADED_BY = {
    "pt2": """import torch

G = torch.export.load({name!r}).module()
z = torch.randn(4, {z_dim}){pt2_classes}
images = G(z{and_classes})
""",
    "onnx": """import numpy
import onnxruntime

G = onnxruntime.InferenceSession({name!r})
z = numpy.random.randn(4, {z_dim}).astype("float32")
{onnx_classes}(images,) = G.run(None, {{"z": z{named_classes}}})
""",
}


def card(trained: Trained, name: str, kind: str, checked: str) -> str:
    """The text of the card of the file `name`; `checked` is what comparing it with G gave."""
    config, classes = trained.recipe.settings, trained.recipe.classes
    size = ", ".join(str(side) for side in trained.G(torch.zeros(1, config.z_dim), *trained.recipe.given(1)).shape[1:])
    settings = {key: value for key, value in config.to_json().items() if key not in PLACES}
    code = LOADED_BY[kind].format(name=name, z_dim=config.z_dim, **(CLASSES if classes else dict.fromkeys(CLASSES, "")))
    of_classes = f"| input `classes` | int64 [batch], from 0 to {classes - 1} |\n" if classes else ""
    return f"""# {as_code(name)}

The generator of a GAN, trained by `fastgan train {name_of(type(trained.recipe))}`; its weights are averaged over
the steps.

| | |
|---|---|
| input `z` | float32 [batch, {config.z_dim}], any batch, drawn from a normal distribution of mean 0 and deviation 1 |
{of_classes}| output `images` | float32 [batch, {size}] in (-1, 1); `(images + 1) * 127.5` as bytes |
| trained on | {as_code(Path(config.data).name)} |
| steps | {trained.step} |
| this file | {checked} |
| made with | fastgan {fastgan.__version__}, torch {torch.__version__}, Python {platform.python_version()} |
| licence | to be stated by whoever publishes this file; the data's own may bind it |

Values of `z` that are cut at some T, such as 0.7, give less varied and more typical images.

```python
{code}```

Settings of the training:

```json
{json.dumps(settings, indent=2)}
```
"""


def as_code(value: Any) -> str:
    """A value as it is, in Markdown and in a table's cell."""
    text = readable(value).replace("|", "\\|")
    fence = "`"
    while fence in text:
        fence += "`"
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
