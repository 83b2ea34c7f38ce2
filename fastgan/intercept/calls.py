"""One form for every way of writing a call: `x + b`, `x += b`, `torch.add(x, other=b)` are all add(input, other)."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

# The arguments of what rules look into, in torch's order. A call of anything else keeps the arguments it came with.
SIGNATURES = {
    name: tuple(arguments.split())
    for names, arguments in {
        "linear": "input weight bias",
        "conv1d conv2d conv3d": "input weight bias stride padding dilation groups",
        "upsample_conv1d upsample_conv3d conv_downsample1d conv_downsample3d": (
            "input weight bias scale_factor padding dilation groups"
        ),
        "upsample_conv2d conv_downsample2d": "input weight bias scale_factor mode fir padding dilation groups",
        "conv_transpose1d conv_transpose2d conv_transpose3d": (
            "input weight bias stride padding output_padding groups dilation"
        ),
        "bias_act": "input b dim act alpha gain clamp keep",
        "scale_shift_act": "input scale shift act alpha",
        "norm_act": "input weight bias running_mean running_var",
        "pixel_shuffle_act": "input bias upscale_factor act alpha",
        "add sub": "input other alpha",
        "mul matmul maximum minimum": "input other",
        "div": "input other rounding_mode",
        "addmm baddbmm": "input mat1 mat2 beta alpha",
        "where": "condition input other",
        "masked_fill": "input mask value",
        "lerp": "input end weight",
        "getitem": "input index",
        "index_select gather": "input dim index",
        "take_along_dim": "input indices dim",
        "cat": "tensors dim",
        "stack": "tensors dim",
        "pad": "input pad mode value",
        "prelu": "input weight",
        "batch_norm": "input running_mean running_var weight bias training momentum eps",
        "instance_norm": "input running_mean running_var weight bias use_input_stats momentum eps",
        "interpolate upsample": "input size scale_factor mode align_corners recompute_scale_factor antialias",
        "avg_pool1d": "input kernel_size stride padding ceil_mode count_include_pad",
        "avg_pool2d avg_pool3d": "input kernel_size stride padding ceil_mode count_include_pad divisor_override",
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d": "input output_size",
        "relu selu silu": "input inplace",
        "leaky_relu": "input negative_slope inplace",
        "elu": "input alpha inplace",
        "softplus": "input beta threshold",
        "gelu": "input approximate",
        "tanh sigmoid": "input",
        "max min": "input dim keepdim",
        "amax amin": "input dim keepdim",
        "max_pool1d max_pool2d max_pool3d": "input kernel_size stride padding dilation ceil_mode return_indices",
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d": "input output_size return_indices",
    }.items()
    for name in names.split()
}
# Other names of the same.
ALIASES = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "truediv": "div",
    "itruediv": "div",
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "imul": "mul",
    "rmul": "mul",
    "idiv": "div",
    "mm": "matmul",
    "bmm": "matmul",
    "concat": "cat",
    "concatenate": "cat",
    "absolute": "abs",
    "negative": "neg",
    "clip": "clamp",
    "_threshold": "threshold",
    "relu6": "hardtanh",
}
ARGUMENT_ALIASES = {
    "self": "input",
    "x": "input",
    "mat2": "other",
    "vec": "other",
    "axis": "dim",
    "keepdims": "keepdim",
    "value": "other",
}


class Call(NamedTuple):
    """One call: the canonical name, the function itself and its arguments."""

    name: str
    function: Callable
    args: tuple
    kwargs: dict[str, Any]

    def named(self) -> dict[str, Any]:
        """The arguments by name, for the functions in SIGNATURES; those left out are missing."""
        return {**dict(zip(SIGNATURES[self.name], self.args, strict=False)), **self.kwargs}


def canonical(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Call:
    """The call in its one form; `rsub` and `rdiv` become `sub` and `div` with their operands exchanged."""
    name = _written(function).rstrip("_")
    name = ALIASES.get(name, name)
    if name in ("rsub", "rtruediv", "rdiv") and len(args) == 2:
        name, args = ("sub" if name == "rsub" else "div"), (args[1], args[0])
    if name in ("max", "min") and _is_tensor(args[1] if len(args) > 1 else kwargs.get("other")):
        name = {"max": "maximum", "min": "minimum"}[name]
    if name in SIGNATURES and kwargs:
        known = SIGNATURES[name]
        kwargs = {key if key in known else ARGUMENT_ALIASES.get(key, key): value for key, value in kwargs.items()}
    return Call(name, function, args, kwargs)


def user_line() -> str:
    """The file and line that called into torch, outside of torch and fastgan."""
    frame = sys._getframe(1)
    while frame is not None and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "an unknown line"
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


_LIBRARIES = (f"{Path(torch.__file__).parent}/", f"{Path(__file__).parent.parent}/", "<")
_NETWORKS = f"{Path(__file__).parent.parent / 'train'}/"  # fastgan's own, which are users of the library


def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARIES) and not file.startswith(_NETWORKS)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _written(function: Callable) -> str:
    """The name in the source: of a property, the property's; `__add__` without its underscores."""
    name = getattr(function, "__name__", type(function).__name__)
    if name in ("__get__", "__set__"):
        name = getattr(getattr(function, "__self__", None), "__name__", name)
        return name if function.__name__ == "__get__" else f"set {name}"
    return name[2:-2] if name.startswith("__") and name.endswith("__") else name
