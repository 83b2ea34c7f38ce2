"""Cases of the ops on a batch of samples."""

from math import prod

import torch

from contract.channels import along, exact, scale_of
from contract.compare import Case
from contract.draw import Draw
from fastgan import functional


def samples(d: Draw) -> list[int]:
    return d.each(d.integer(1, 4), [0, 1, 2, 3] if d.chance(0.1) else [1, 2, 3, 5, 9])


def sample_norm(d: Draw, dtype: torch.dtype) -> Case:
    shape, squared = d.settled("shape", samples, d), d.settled("squared", d.chance, 0.5)
    # The second derivative of one value's norm is 0: the difference of two terms that were rounded to halves.
    squared = squared or (dtype.itemsize == 2 and prod(shape[1:]) == 1)

    def plain(noise, x):
        squares = x.to(torch.promote_types(x.dtype, torch.float32)).unsqueeze(-1).flatten(1).square().sum(1)
        if squared:
            return squares
        zero = squares == 0
        return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = {"x": d.laid(shape, dtype, scale_of(d, dtype))}
    return Case("sample_norm", lambda x: functional.sample_norm(x, squared=squared), plain, inputs, wide,
                facts=f"{shape} squared={squared}", rounded_once=("value", "gradient of x"))  # fmt: skip


def scale_samples(d: Draw, dtype: torch.dtype) -> Case:
    shape, scale = d.settled("shape", samples, d), scale_of(d, dtype)
    inputs = {"x": d.laid(shape, dtype, scale), "c": d.laid(shape[:1], exact(d, dtype), scale)}

    def plain(noise, x, c):
        return (x * along(c, x.ndim, 0)).to(x.dtype)

    return Case("scale_samples", functional.scale_samples, plain, inputs, dtype, facts=f"{shape}",
                rounded_once=("value", "gradient of x", "gradient of c"))  # fmt: skip


def interpolate(d: Draw, dtype: torch.dtype) -> Case:
    shape, scale = d.settled("shape", samples, d), scale_of(d, dtype)
    inputs = {name: d.laid(shape, dtype, scale) for name in ("real", "fake")}
    inputs["eps"] = d.laid(shape[:1], exact(d, dtype), scale)

    def plain(noise, real, fake, eps):
        eps = along(eps, real.ndim, 0)
        return (eps * real + (1 - eps) * fake).to(real.dtype)

    rounded_once = ("value", "gradient of real", "gradient of fake")
    return Case("interpolate", functional.interpolate, plain, inputs, dtype, facts=f"{shape}",
                rounded_once=rounded_once)  # fmt: skip
