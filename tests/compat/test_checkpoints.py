"""convert_spectral_norm: what it writes is loaded by the modules it is for, and they compute the same."""

import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook

from fastgan.compat.checkpoints import STYLES, convert_spectral_norm

TORCH_STYLES = ("torch_hook", "torch_parametrization")
OTHER_STYLES = ("biggan", "mimicry")
# torch's parametrization iterates u first, so its next step is another one.
V_FIRST = ("torch_hook", *OTHER_STYLES)


class SigmaConv2d(nn.Conv2d):
    """A convolution that keeps u as a row and sigma, and iterates v before u, as BigGAN's and mimicry's layers do."""

    def __init__(self, *args, u_name: str, sigma_name: str):
        super().__init__(*args)
        self.names = (u_name, sigma_name)
        self.register_buffer(u_name, F.normalize(torch.randn(1, self.out_channels)))
        self.register_buffer(sigma_name, torch.ones(1))

    def forward(self, x):
        matrix = self.weight.flatten(1)
        u, sigma = (getattr(self, name) for name in self.names)
        with torch.no_grad():
            v = F.normalize(u @ matrix)
            new_u = F.normalize(v @ matrix.t())
        new_sigma = (new_u @ matrix @ v.t()).squeeze()
        if self.training:
            u.copy_(new_u)
            sigma.copy_(new_sigma.detach())
        return self._conv_forward(x, self.weight / new_sigma, self.bias)


LAYERS = {
    "torch_hook": lambda: torch_hook(nn.Conv2d(3, 5, 3)),
    "torch_parametrization": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 5, 3)),
    "biggan": lambda: SigmaConv2d(3, 5, 3, u_name="u0", sigma_name="sv0"),
    "mimicry": lambda: SigmaConv2d(3, 5, 3, u_name="sn_u", sigma_name="sn_sigma"),
}


class Chain(nn.Module):
    def __init__(self, style: str):
        super().__init__()
        self.first = LAYERS[style]()
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Sequential(nn.Conv2d(5, 3, 1), LAYERS[style]())

    def forward(self, x):
        return self.head(self.norm(self.first(x)))


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def trained(style: str, x) -> nn.Module:
    """Whose u, v and sigma are the result of a few steps."""
    torch.manual_seed(0)
    model = Chain(style).double()
    for _ in range(3):
        model(x)
    return model


def load(style: str, state_dict) -> nn.Module:
    model = Chain(style).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(state_dict)
    return model


@pytest.mark.parametrize("to", V_FIRST)
@pytest.mark.parametrize("source", V_FIRST)
def test_training_goes_on_exactly(source, to, x):
    model = trained(source, x)
    other = load(to, convert_spectral_norm(model.state_dict(), to=to).state_dict)
    for _ in range(2):
        torch.testing.assert_close(other(x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("source", TORCH_STYLES)
def test_evaluation_of_torch_styles_is_exact(source, x):
    model = trained(source, x).eval()
    (to,) = set(TORCH_STYLES) - {source}
    torch.testing.assert_close(
        load(to, convert_spectral_norm(model.state_dict(), to=to).state_dict).eval()(x), model(x), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(("source", "to"), [TORCH_STYLES, TORCH_STYLES[::-1], OTHER_STYLES, OTHER_STYLES[::-1]])
def test_round_trip_without_estimates_is_the_identity(source, to, x):
    before = trained(source, x).state_dict()
    there = convert_spectral_norm(before, to=to)
    back = convert_spectral_norm(there.state_dict, to=source)
    assert there.estimated == back.estimated == []
    assert list(back.state_dict) == list(before)
    assert all(torch.equal(back.state_dict[key], before[key]) for key in before)


@pytest.mark.parametrize("source", TORCH_STYLES)
@pytest.mark.parametrize("to", OTHER_STYLES)
def test_round_trip_with_estimates_says_so(source, to, x):
    before = trained(source, x).state_dict()
    there = convert_spectral_norm(before, to=to)
    back = convert_spectral_norm(there.state_dict, to=source)
    sigma, v = STYLES[to][2], STYLES[source][2].format(name="weight")
    assert there.estimated == [f"first.{sigma}", f"head.1.{sigma}"]
    assert back.estimated == [f"first.{v}", f"head.1.{v}"]
    assert list(back.state_dict) == list(before)
    assert all(torch.equal(back.state_dict[key], before[key]) for key in before if key not in back.estimated)


def test_estimated_values():
    weight = torch.randn(4, 3, 2, dtype=torch.float64)
    u, v = F.normalize(torch.randn(4).double(), dim=0), F.normalize(torch.randn(6).double(), dim=0)
    hook = {"a.weight_orig": weight, "a.weight_u": u, "a.weight_v": v}
    mimicry = convert_spectral_norm(hook, to="mimicry").state_dict
    assert mimicry["a.weight"] is weight
    assert mimicry["a.sn_u"].shape == (1, 4)
    torch.testing.assert_close(mimicry["a.sn_sigma"], (u @ weight.flatten(1) @ v).reshape(1))
    back = convert_spectral_norm(mimicry, to="torch_parametrization").state_dict
    torch.testing.assert_close(back["a.parametrizations.weight.0._v"], F.normalize(u @ weight.flatten(1), dim=0))


def test_styles_may_be_mixed_and_other_entries_keep_their_place(x):
    state_dict = OrderedDict(step=3)
    for style in STYLES:
        for key, value in LAYERS[style]().state_dict().items():
            state_dict[f"{style}.{key}"] = value
        state_dict[f"{style}.after"] = style
    converted = convert_spectral_norm(state_dict, to="torch_hook").state_dict
    layer = ["weight_orig", "weight_u", "weight_v"]
    for style in STYLES:
        assert {f"{style}.{key}" for key in (*layer, "bias", "after")} == {k for k in converted if k.startswith(style)}
    assert [key for key in converted if key.endswith(("step", "after"))] == ["step", *(f"{s}.after" for s in STYLES)]
    assert list(convert_spectral_norm({"x.u0": 1, "weight_orig": 2, "weight_mask": 3}, to="biggan").state_dict) == [
        "x.u0",
        "weight_orig",
        "weight_mask",
    ]


def test_metadata_says_what_torch_hooks_read(x):
    model = trained("torch_parametrization", x)
    hook = convert_spectral_norm(model.state_dict(), to="torch_hook").state_dict
    assert hook._metadata["first"]["spectral_norm"] == {"weight.version": 1}
    assert hook._metadata["norm"] == model.state_dict()._metadata["norm"]
    back = convert_spectral_norm(hook, to="torch_parametrization").state_dict
    assert "spectral_norm" not in back._metadata["first"]
    assert "spectral_norm" not in model.state_dict()._metadata["first"]


def test_transposed_convolutions_and_other_names():
    layer = torch_hook(nn.ConvTranspose2d(3, 5, 3))
    converted = convert_spectral_norm(layer.state_dict(), to="torch_parametrization").state_dict
    parametrizations.spectral_norm(nn.ConvTranspose2d(3, 5, 3)).load_state_dict(converted)
    with pytest.raises(ValueError, match=r"'weight_orig' cannot be written in the style biggan.*dimension 0.*5 rows"):
        convert_spectral_norm(layer.state_dict(), to="biggan")
    cell = torch_hook(nn.GRUCell(3, 5), name="weight_hh")
    converted = convert_spectral_norm(cell.state_dict(), to="torch_parametrization").state_dict
    parametrizations.spectral_norm(nn.GRUCell(3, 5), name="weight_hh").load_state_dict(converted)
    with pytest.raises(ValueError, match=r"'weight_hh_orig' cannot be written in the style mimicry"):
        convert_spectral_norm(cell.state_dict(), to="mimicry")


W, U, V = torch.ones(4, 3), torch.ones(4), torch.ones(3)


@pytest.mark.parametrize(
    ("state_dict", "error", "message"),
    [
        ({"a.weight_orig": W, "a.weight_u": U}, ValueError, "no 'a.weight_v': the style torch_hook"),
        ({"weight_u": U, "weight_v": V}, ValueError, "no 'weight_orig'"),
        ({"a.weight": W, "a.u0": U[None]}, ValueError, r"\['a.u0', 'a.weight'\] and no 'a.sv0': the style biggan"),
        ({"a.sn_u": U[None], "a.sn_sigma": U[:1]}, ValueError, "no 'a.weight': the style mimicry"),
        ({"weight_orig": W, "weight_u": U, "weight_v": U}, ValueError, r"m \* n entries.*weight_v \[4\]"),
        ({"weight_orig": U, "weight_u": U, "weight_v": U[:1]}, ValueError, r"weight_orig \[4\]"),
        ({"weight": W, "u0": U, "sv0": U[:1]}, ValueError, r"\[1, m\] and \[1\] in the style biggan, got.*u0 \[4\]"),
        ({"weight": W, "u0": U[None], "sv0": "no"}, TypeError, r"state_dict\['sv0'\] must be a tensor, got str"),
        (
            {"weight": W, "u0": U[None], "sv0": U[:1], "sn_u": U[None], "sn_sigma": U[:1]},
            ValueError,
            "'weight' in two styles, biggan and mimicry",
        ),
        (
            {"weight": W, "weight_orig": W, "weight_u": U, "weight_v": V},
            ValueError,
            "the converted state_dict would have 'weight' twice",
        ),
    ],
)
def test_malformed_state_dicts_are_refused(state_dict, error, message):
    with pytest.raises(error, match=message):
        convert_spectral_norm(state_dict, to="biggan")


def test_unknown_style_is_refused():
    with pytest.raises(ValueError, match=r"to must be one of torch_hook, .*mimicry, got str 'stylegan'"):
        convert_spectral_norm({}, to="stylegan")


def test_the_given_state_dict_is_not_modified(x):
    given = trained("torch_hook", x).state_dict()
    keys, values = list(given), [value.clone() for value in given.values()]
    convert_spectral_norm(given, to="biggan")
    assert list(given) == keys
    assert all(map(torch.equal, given.values(), values))
