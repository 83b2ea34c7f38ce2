"""Compile every Triton kernel for one GPU without having it; `tests/test_triton_aot.py` runs this file.

Usage: compile_ahead.py SM (80, 90, 100). Prints one JSON object per kernel: what it needs, the PTX that was made, what
overflows where a size is almost 2^31, and, for one variant, the compiler's error where every size is 1: Triton makes
those constants.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastgan import filters
from fastgan.kernels import (
    bias_act,
    channels,
    interpolate,
    minibatch_stddev,
    norm_act,
    pixel_shuffle_act,
    sample_norm,
    samples,
    scale_samples,
    scale_shift_act,
    spectral_norm,
    sum_channels,
    upfirdn2d,
)
from fastgan.kernels.grouped import TRITON_DTYPES
from fastgan.reference.activations import FACTS

# By GPU: dtypes, and what spectral norm's weights become. What they need hardly depends on the GPU: one has all.
PAIRS = {
    80: [(torch.float32, torch.float32), (torch.float16, torch.float16)],
    90: [*((dtype, dtype) for dtype in TRITON_DTYPES), (torch.float32, torch.bfloat16)],
    100: [(torch.float64, torch.float64), (torch.bfloat16, torch.bfloat16)],
}
TYPES = {"pointers": "*i64", "programs": "*i32", "layers": "*i64"}
TILING = {"TILE": spectral_norm.TILE_ROWS, "BLOCK": spectral_norm.WRITE_COLUMNS}
PASS_MODES = {
    "rows+columns": {"ROWS": True, "COLUMNS": True, "FIRST": False, "TRAINING": True},
    "rows+columns first": {"ROWS": True, "COLUMNS": True, "FIRST": True, "TRAINING": True},
    "columns first": {"ROWS": False, "COLUMNS": True, "FIRST": True, "TRAINING": True},
    "rows": {"ROWS": True, "COLUMNS": False, "FIRST": False, "TRAINING": True},
    "eval": {"ROWS": True, "COLUMNS": False, "FIRST": True, "TRAINING": False},
}


def spectral_norm_kernels(dtype, other, everything):
    """Yield stem, variant, types of arguments, constants, warps; W_hat and its gradient are of the `other` dtype."""
    exact = "*fp64" if dtype == torch.float64 else "*fp32"
    name = f"{dtype}, {other}".replace("torch.", "")
    work = TYPES | {"work": exact}
    constants = {"DTYPE": TRITON_DTYPES[dtype]}
    for mode, flags in PASS_MODES.items():
        if everything or mode == "rows+columns":
            tiling = {"TILE": spectral_norm.TILE_ROWS, "BLOCK": spectral_norm.pass_columns(dtype), "EPS": 1e-12}
            yield "pass", f"{name}, {mode}", work, constants | flags | tiling, spectral_norm.TILE_WARPS
    for by_t in (True, False) if dtype in (torch.float64, torch.float32) else ():
        sizes = {"COMBINED": spectral_norm.COMBINE_TILES, "BLOCK": spectral_norm.COMBINE_COLUMNS}
        yield "combine", f"{name}, by_t={by_t}", work, {"EPS": 1e-12, "BY_T": by_t} | sizes, spectral_norm.COMBINE_WARPS
    for training in (True, False) if everything else (True,):
        flags = {"OUT_DTYPE": TRITON_DTYPES[other], "EPS": 1e-12, "TRAINING": training, "U_FIRST": True}
        yield (
            "write",
            f"{name}, training={training}",
            work | {"sigmas": exact},
            constants | flags | TILING,
            spectral_norm.TILE_WARPS,
        )
    constants |= {"GRAD_DTYPE": TRITON_DTYPES[other]} | TILING
    dots = TYPES | {"dots": exact}
    yield "dot", name, dots, constants, spectral_norm.TILE_WARPS
    dots |= {"sigmas": exact, "grad_sigmas": exact}
    yield "bwd", name, dots, constants, spectral_norm.TILE_WARPS
    if everything:
        del dots["grad_sigmas"]
        yield "bwd", f"{name}, no grad_sigmas", dots, constants | {"grad_sigmas": None}, spectral_norm.TILE_WARPS


def sample_kernels(dtype, everything):
    """Yield kernel, variant, types of arguments, constants, warps, for large samples and for small ones."""
    scalar, numbers = f"*{TRITON_DTYPES[dtype]}", "*fp64" if dtype == torch.float64 else "*fp32"
    sizes = {"count": "i32", "size": "i32", "parts": "i32", "tiles_per_part": "i32"}
    dtype_constant = {"DTYPE": TRITON_DTYPES[dtype]}
    for size in (196608, 48) if everything else (196608,):
        name, constants = f"{dtype}, {size} numbers".replace("torch.", ""), samples.tile(size)
        warps = constants.pop("num_warps")
        fwd = sizes | {"x": scalar, "sums": numbers}
        yield sample_norm._sample_norm_fwd_kernel, name, fwd, constants | {"ROOT": size == 48}, warps
        scale = sizes | {"x": scalar, "c": numbers, "norms": numbers, "y": scalar}
        constants |= dtype_constant
        yield scale_samples._scale_samples_kernel, name, scale, constants | {"FACTOR": 1.0}, warps
        mixed = sizes | {"real": scalar, "fake": scalar, "eps": numbers, "y": scalar}
        yield interpolate._interpolate_samples_kernel, name, mixed, constants, warps
        split = sizes | {"dy": scalar, "eps": numbers, "dreal": scalar, "dfake": scalar}
        yield interpolate._interpolate_samples_backward_kernel, name, split, constants, warps
        if everything:
            del scale["norms"]
            constants |= {"norms": None, "FACTOR": 2.0}
            yield scale_samples._scale_samples_kernel, f"{name}, no norms", scale, constants, warps
    if dtype in (torch.float64, torch.float32):
        finish = {"sums": numbers, "norms": numbers, "parts": "i32"}
        yield sample_norm._sample_norm_finish_kernel, str(dtype), finish, {"ROOT": True}, sample_norm.FINISH_WARPS


def bias_act_kernels(dtype, everything):
    """Yield kernel, variant, types of arguments, constants, warps."""
    scalar, numbers = f"*{TRITON_DTYPES[dtype]}", "*fp64" if dtype == torch.float64 else "*fp32"
    types = dict.fromkeys(("x", "dy", "ddx", "out"), scalar) | {"b": numbers}
    types |= {"numbers": "i32", "channels": "i32", "inner": "i32"}
    parts = [(0, False), (1, True), (1, False), (2, True), (2, False)]
    for act in FACTS if everything else ("lrelu", "tanh", "softplus", "gelu"):
        for order, at_value in parts:
            if at_value and not FACTS[act].slope_at_value:
                continue
            constants = {"DTYPE": TRITON_DTYPES[dtype], "ORDER": order, "AT_VALUE": at_value, "ACT": act, "ALPHA": 0.2}
            constants |= {"GAIN": 1.4, "CLAMP": 256.0, "WIDE": act == "lrelu", "BLOCK": bias_act.BLOCK}
            missing = dict.fromkeys(("dy", "ddx")[order:])
            given = {name: kind for name, kind in types.items() if name not in missing}
            name = f"{dtype}, {act}, order {order}, at_value={at_value}".replace("torch.", "")
            yield bias_act._bias_act_kernel, name, given, constants | missing, bias_act.WARPS
    for count, inner in ((512, 1024), (512, 16), (64, 1)):
        sizes = {"outer": "i32", "channels": "i32", "inner": "i32", "parts": "i32", "rounds": "i32"}
        fwd, constants = {"x": scalar, "sums": "*fp64"} | sizes, sum_channels.tile(count, inner)
        if inner == 1:  # which Triton makes a constant
            del fwd["inner"]
            constants["inner"] = 1
        name = f"{dtype}, {inner} numbers".replace("torch.", "")
        yield sum_channels._sum_channels_fwd_kernel, name, fwd, constants, sum_channels.WARPS
    if dtype in (torch.float64, torch.float32):
        finish = {"partial": "*fp64", "sums": numbers, "channels": "i32", "parts": "i32"}
        constants = {"CHANNELS": sum_channels.FINISH_CHANNELS}
        yield sum_channels._sum_channels_finish_kernel, str(dtype), finish, constants, sum_channels.FINISH_WARPS


def channel_kernels(dtype, everything):
    """Yield kernel, variant, types of arguments, constants, warps, for channels outermost and innermost."""
    numbers = "*fp64" if dtype == torch.float64 else "*fp32"
    tensors = dict.fromkeys(("x", "y", "dy", "dx"), f"*{TRITON_DTYPES[dtype]}")
    names = ("scale", "shift", "center", "linear", "constant")
    types = tensors | dict.fromkeys(
        (*names, "bias", "sums", "moments", "dscale", "dshift", "mean_of", "var_of"), numbers
    )
    sizes = ("channels", "positions", "parts", "tiles_per_part", "part_size", "samples", "width", "height")
    types |= dict.fromkeys(sizes, "i32")
    exact = {"EXACT": TRITON_DTYPES[torch.float64 if dtype == torch.float64 else torch.float32]}
    for last in (False, True):
        for act in ("relu", "gelu") if everything else ("gelu",):
            name = f"{dtype}, {act}, {'last' if last else 'first'}".replace("torch.", "")
            constants = channels.tile(dtype, 256, 1024, last)
            warps = constants.pop("num_warps")
            constants |= exact | {"ACT": act, "ALPHA": 0.2, "PER_SAMPLE": 0b11011, "FACTOR": 2}
            for module in (scale_shift_act, pixel_shuffle_act):
                stem = module.__name__.rpartition(".")[2]
                for way in ("fwd", "bwd"):
                    yield getattr(module, f"_{stem}_{way}_kernel"), name, types, constants, warps
        yield norm_act._norm_act_fwd_kernel, name, types, constants, warps
    if dtype in (torch.float64, torch.float32):
        finish = {"CHANNELS": scale_shift_act.FINISH_CHANNELS}
        kernel = scale_shift_act._scale_shift_act_finish_kernel
        yield kernel, str(dtype), types, finish, scale_shift_act.FINISH_WARPS
        finish = {"CHANNELS": norm_act.FINISH_CHANNELS, "PARTS": norm_act.FINISH_PARTS}
        yield norm_act._norm_act_finish_kernel, str(dtype), types, finish, norm_act.FINISH_WARPS


def minibatch_kernels(dtype, everything):
    """Yield kernel, variant, types of arguments, constants, warps, for channels outermost and innermost."""
    sizes = ("group", "blocks", "groups", "features", "rows", "columns", "inner", "parts", "place_parts")
    types = dict.fromkeys(("x", "y", "dy", "dx"), f"*{TRITON_DTYPES[dtype]}") | {"sums": "*fp64", "slopes": "*fp64"}
    # The samples of a group, in one block or several; one slice or several. Triton makes sizes of 1 constants.
    for count, several in ((8, False), (100, False), (8, True)) if everything else ((8, False),):
        for last in (False, True):
            constants = minibatch_stddev.tile(dtype, count, *((1024, 512) if last else (1, 8192)))
            warps = constants.pop("num_warps")
            ones = ["inner" if last else "rows"] + ["features"] * (not several) + ["blocks"] * (count == 8)
            constants |= {"EPS": 1e-8, "PLACES": minibatch_stddev.PLACES} | dict.fromkeys(ones, 1)
            given = types | dict.fromkeys((size for size in sizes if size not in ones), "i32")
            name = f"{dtype}, {'last' if last else 'first'}, {count} samples{', slices' * several}"
            for way in ("fwd", "finish", "slope", "bwd"):
                kernel = getattr(minibatch_stddev, f"_minibatch_stddev_{way}_kernel")
                own = warps if way in ("fwd", "bwd") else minibatch_stddev.PLACES_WARPS
                yield kernel, name.replace("torch.", ""), given, constants, own


def resampling_kernels(dtype, everything):
    """Yield kernel, variant, types of arguments, constants, warps, for pixels of many channels and for planes."""
    scalar, taps = f"*{TRITON_DTYPES[dtype]}", "*fp32"
    names = ("pixels", "inner", "channels", "in_rows", "in_columns", "out_rows", "out_columns", "pad_y", "pad_x")
    types = dict.fromkeys(names, "i32") | {"x": scalar, "y": scalar, "fy": taps, "fx": taps}
    for up, down, count in ((2, 1, 4), (1, 2, 12)) if everything else ((2, 1, 4),):
        axis = filters.Axis(size=64, out=128, taps=count, up=up, down=down, pad=2)
        for inner in (64, 1):
            constants = upfirdn2d.constants(axis, axis) | upfirdn2d.tile(inner)
            constants |= {"FLIP": False, "GAIN": 4.0, "DTYPE": TRITON_DTYPES[dtype], "b": None}
            constants |= {"ACT": None, "ALPHA": 0.0, "ACT_GAIN": 1.0, "CLAMP": None}
            warps = constants.pop("num_warps")
            name = f"{dtype}, up {up}, down {down}, {inner} channels".replace("torch.", "")
            yield upfirdn2d._upfirdn2d_kernel, name, types, constants, warps
            if count == 4:
                acc = "*fp64" if dtype == torch.float64 else "*fp32"
                after = constants | {"ACT": "lrelu", "ALPHA": 0.2, "ACT_GAIN": 2**0.5, "CLAMP": 256.0}
                del after["b"]
                yield upfirdn2d._upfirdn2d_kernel, f"{name}, bias and lrelu", types | {"b": acc}, after, warps
            if everything:
                whole = {key: kind for key, kind in types.items() if key != "fx"}
                yield upfirdn2d._upfirdn2d_kernel, f"{name}, no product", whole, constants | {"fx": None}, warps


def all_kernels(dtype, other, everything):
    """Yield kernel, variant, types of arguments, constants, warps."""
    for stem, *rest in spectral_norm_kernels(dtype, other, everything):
        yield getattr(spectral_norm, f"_spectral_norm_{stem}_kernel"), *rest
    if dtype == other:
        yield from sample_kernels(dtype, everything)
        yield from bias_act_kernels(dtype, everything)
        yield from channel_kernels(dtype, everything)
        yield from minibatch_kernels(dtype, everything)
        yield from resampling_kernels(dtype, everything)


def compile_kernel(kernel, types, constants, warps, sm):
    """What a call with 16-byte aligned tensors, and sizes that are multiples of 16, compiles to."""
    types = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    constants = {name: constants[name] for name, kind in types.items() if kind == "constexpr"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind != "constexpr"}
    source = ASTSource(kernel, types, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", sm, 32), options={"num_warps": warps}).asm


def resources(cubin):
    """Registers and bytes of stack per thread; what does not fit into registers is spilled to the stack."""
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [cuobjdump, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    return {"registers": int(registers), "stack": int(stack)}


def overflows(kernel, ttir):
    """Of 32 bits: loops whose last step may pass 2^31, and sums of an argument and more, as of `tl.cdiv`."""
    ones = {name for name, value in re.findall(r"(%\w+) = arith\.constant (-?\d+) : i32", ttir) if value == "1"}
    loops = re.findall(r"scf\.for .* step (%\w+).* : i32 \{", ttir)
    sums = re.findall(r"arith\.addi (.*) : i32(?!x)", ttir)
    arguments = {f"%{name}" for name in kernel.arg_names}
    return [f"loop by {step}" for step in loops if step not in ones] + [s for s in sums if arguments & {*s.split(", ")}]


def with_sizes_of_one(kernel, types, constants, warps, sm):
    """What the compiler says where every size is 1."""
    sizes = {name for name, kind in types.items() if kind == "i32"}
    others = {name: kind for name, kind in types.items() if name not in sizes}
    try:
        compile_kernel(kernel, others, constants | dict.fromkeys(sizes, 1), warps, sm)
    except triton.CompilationError as error:
        return str(error)
    return ""


def main(sm):
    for dtype, other in PAIRS[sm]:
        everything = sm == 90 and dtype == torch.float32
        seen = set()
        for kernel, variant, *arguments in all_kernels(dtype, other, everything):
            asm = compile_kernel(kernel, *arguments, sm)
            result = {"kernel": kernel.__name__, "variant": variant, "ptx": asm["ptx"]} | resources(asm["cubin"])
            result["overflows"] = overflows(kernel, asm["ttir"])
            result["of_one"] = with_sizes_of_one(kernel, *arguments, sm) if everything and kernel not in seen else ""
            seen.add(kernel)
            print(json.dumps(result), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
