"""Conversion of checkpoints between codebases."""

import re
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.spectral_norm import SpectralNorm as TorchHook

from fastgan import check

__all__ = ["ConvertedStateDict", "convert_spectral_norm"]

# The three keys of one spectrally normalised weight, after the path of its module: W, u, and v or sigma.
STYLES = {
    "torch_hook": ("{name}_orig", "{name}_u", "{name}_v"),
    "torch_parametrization": (
        "parametrizations.{name}.original",
        "parametrizations.{name}.0._u",
        "parametrizations.{name}.0._v",
    ),
    "biggan": ("weight", "u0", "sv0"),
    "mimicry": ("weight", "sn_u", "sn_sigma"),
}
SIGMA_STYLES = ("biggan", "mimicry")


class ConvertedStateDict(NamedTuple):
    """A state_dict in another style, and those of its keys whose values had to be estimated."""

    state_dict: OrderedDict[str, Any]
    estimated: list[str]


@torch.no_grad()
def convert_spectral_norm(state_dict: Mapping[str, Any], *, to: str) -> ConvertedStateDict:
    """Rewrite the spectral norms of a state_dict in the style of another codebase.

        torch_hook              weight_orig [m, ...], weight_u [m], weight_v [n]
        torch_parametrization   parametrizations.weight.original [m, ...], ....weight.0._u [m], ....weight.0._v [n]
        biggan                  weight [m, ...], u0 [1, m], sv0 [1]
        mimicry                 weight [m, ...], sn_u [1, m], sn_sigma [1]

    Each is recognised by its keys, and they may be mixed. What a style does not have is estimated for one that needs
    it: v as W^T u / |W^T u|, which the first step of training computes anyway; sigma as u^T W v, a record of the last
    step. The last two styles have no other dimension of outputs than 0, and no other name than `weight`.

    Args:
        state_dict: keys and tensors. It is not modified; its other entries are passed on, in their order.
        to: "torch_hook", "torch_parametrization", "biggan" or "mimicry".

    Returns:
        `state_dict`, which shares tensors with the given one, and `estimated`, the keys of what was estimated.

    Raises:
        TypeError: an entry of a spectral norm is not a tensor.
        ValueError: `to` is none of the styles; a weight has two of a style's three keys, or the keys of two styles; its
            shapes do not fit each other; or the style cannot say what is there, such as a transposed convolution.

    Source: torch.nn.utils; for the last two styles, the checkpoints of BigGAN-PyTorch and of mimicry.
    """
    check.choice(to, "to", STYLES)
    norms = _find(state_dict)
    estimated: list[str] = []
    replacements = {key: entry for norm in norms for key, entry in norm.convert(to, estimated).items()}
    out: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        new_key, new_value = replacements.get(key, (key, value))
        if new_key in out:
            raise ValueError(f"the converted state_dict would have {new_key!r} twice")
        out[new_key] = new_value
    if hasattr(state_dict, "_metadata"):
        out._metadata = _metadata(state_dict._metadata, norms, to)
    return ConvertedStateDict(out, estimated)


class _Norm(NamedTuple):
    """One spectrally normalised weight."""

    style: str
    prefix: str
    name: str
    weight: Tensor
    u: Tensor
    # v, or sigma in SIGMA_STYLES
    third: Tensor

    @property
    def keys(self) -> list[str]:
        return _keys(self.style, self.prefix, self.name)

    def convert(self, to: str, estimated: list[str]) -> dict[str, tuple[str, Tensor]]:
        """For each of its keys the key and the tensor in another style."""
        u, third = self.u, self.third
        new_keys = _keys(to, self.prefix, self.name)
        if to in SIGMA_STYLES:
            self._check_expressible(to)
        if (to in SIGMA_STYLES) != (self.style in SIGMA_STYLES):
            estimated.append(new_keys[2])
            u, third = (u.reshape(1, -1), self._sigma()) if to in SIGMA_STYLES else (u.flatten(), self._v())
        return dict(zip(self.keys, zip(new_keys, (self.weight, u, third), strict=True), strict=True))

    def _check_expressible(self, to: str) -> None:
        if self.name != "weight" or self.u.numel() != self.weight.shape[0]:
            raise ValueError(
                f"{self.keys[0]!r} cannot be written in the style {to}: that takes a tensor named 'weight', "
                f"normalised along dimension 0, got {list(self.weight.shape)} with {self.u.numel()} rows"
            )

    def _v(self) -> Tensor:
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        return normalize(self.weight.to(exact).flatten(1).t() @ self.u.to(exact).flatten(), dim=0).to(self.u.dtype)

    def _sigma(self) -> Tensor:
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        wv = self.weight.to(exact).flatten(1) @ self.third.to(exact)
        return torch.dot(self.u.to(exact), wv).reshape(1).to(self.u.dtype)


# --- recognising ---


def _keys(style: str, prefix: str, name: str) -> list[str]:
    return [prefix + template.format(name=name) for template in STYLES[style]]


def _pattern(template: str) -> re.Pattern:
    fixed = map(re.escape, template.split("{name}"))
    return re.compile(r"(?P<prefix>(?:.*\.)?)" + r"(?P<name>[^.]+)".join(fixed))


_PATTERNS = {style: [_pattern(template) for template in templates] for style, templates in STYLES.items()}


def _find(state_dict: Mapping[str, Any]) -> list[_Norm]:
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for key in state_dict:
        for style, patterns in _PATTERNS.items():
            for match in filter(None, (pattern.fullmatch(key) for pattern in patterns)):
                found[style, match["prefix"], match.groupdict().get("name", "weight")].add(key)
    norms: list[_Norm] = []
    owners: dict[str, str] = {}
    for (style, prefix, name), present in found.items():
        # One key alone is something else: a plain weight, a pruned weight_orig, a parameter of that name.
        if len(present) == 1:
            continue
        keys = _keys(style, prefix, name)
        if missing := [key for key in keys if key not in present]:
            raise ValueError(f"state_dict has {sorted(present)} and no {missing[0]!r}: the style {style} has all three")
        for key in keys:
            if key in owners:
                raise ValueError(f"state_dict has {key!r} in two styles, {owners[key]} and {style}")
            owners[key] = style
        norms.append(_checked(_Norm(style, prefix, name, *(state_dict[key] for key in keys))))
    return norms


def _checked(norm: _Norm) -> _Norm:
    for key, value in zip(norm.keys, norm[3:], strict=True):
        if not isinstance(value, Tensor):
            raise TypeError(f"state_dict[{key!r}] must be a tensor, got {type(value).__name__}")
    weight, u, third = norm[3:]
    if norm.style in SIGMA_STYLES:
        fits = weight.ndim >= 2 and u.shape == (1, weight.shape[0]) and third.shape == (1,)
        expected = "[m, ...], [1, m] and [1]"
    else:
        fits = weight.ndim >= 2 and u.ndim == third.ndim == 1 and u.numel() in weight.shape
        fits = fits and u.numel() * third.numel() == weight.numel()
        expected = "[m, ...], [m] and [n], with m * n entries in the first"
    if not fits:
        shapes = ", ".join(f"{key} {list(value.shape)}" for key, value in zip(norm.keys, norm[3:], strict=True))
        raise ValueError(f"state_dict: the shapes must be {expected} in the style {norm.style}, got {shapes}")
    return norm


# --- writing ---


def _metadata(metadata: Mapping[str, dict], norms: list[_Norm], to: str) -> OrderedDict[str, dict]:
    """Versions by module, with which torch's hook decides what it reads."""
    out = OrderedDict((path, dict(local)) for path, local in metadata.items())
    for local in out.values():
        local.pop("spectral_norm", None)
    if to == "torch_hook":
        for norm in norms:
            versions = out.setdefault(norm.prefix.removesuffix("."), {}).setdefault("spectral_norm", {})
            versions[f"{norm.name}.version"] = TorchHook._version
    return out
