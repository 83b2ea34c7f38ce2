"""fastgan.patch on codebases that are written here, in the manner of the families."""

import importlib
import inspect
import itertools
import sys
from contextlib import suppress
from copy import deepcopy
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from codebases.forks import BASICSR, BIGGAN, ROSINALITY, STYLEGAN
from torch import nn
from torch.utils import cpp_extension

import fastgan
from fastgan import functional
from fastgan.cli import main
from fastgan.compat import patching

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
CHECKOUTS = {"stylegan": STYLEGAN, "rosinality": ROSINALITY, "basicsr": BASICSR, "biggan": BIGGAN, "torch": {}}


def statuses(report):
    return {row.name: row.status for row in report.rows}


def modules_of(files):
    """Their names, importable ones alone."""
    return [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]


@pytest.mark.parametrize("imported", [False, True])
def test_before_and_after_the_import(checkout, imported):
    checkout(STYLEGAN)
    if imported:
        importlib.import_module("training.networks")
    report = fastgan.patch("stylegan3")
    expected = "replaced" if imported else "waiting for import"
    assert statuses(report)["torch_utils.ops.bias_act.bias_act"] == expected
    networks = importlib.import_module("training.networks")
    y = networks.bias_act.bias_act(X, torch.ones(3), act="lrelu", impl="cuda")
    assert torch.equal(y, functional.bias_act(X, torch.ones(3), act="lrelu"))
    f = functional.setup_filter([1, 3, 3, 1])
    assert torch.equal(networks.upsample2d(X, f), functional.upsample2d(X, f))
    assert set(networks.bias_act.activation_funcs) == {"linear", "relu", "lrelu", "tanh", "swish"}
    assert statuses(fastgan.patch("stylegan"))["torch_utils.ops.bias_act.bias_act"] == "replaced"


# Rows whose own function is all there is to it; every other one ends in an op.
WITHOUT_OPS = ("fma", "no_weight_gradients", "grid_sample", "setup_filter")


def code_run(function):
    """The code objects of Python that a call runs."""
    seen = set()

    def note(frame, event, _):
        if event == "call":
            seen.add(frame.f_code)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return seen


def spellings(module, name):
    """What a user's module has, by each way of importing it."""
    owner, _, attribute = name.rpartition(".")
    first = owner or attribute
    lines = [
        f"from {module} import {first} as it",
        f"import {module} as m\nit = m.{first}",
        f"import importlib\nit = importlib.import_module({module!r}).{first}",
    ]
    package, _, last = module.rpartition(".")
    if package and not isinstance(getattr(sys.modules[package], last, None), ModuleType):
        del lines[1]  # the package has something else by this name
    elif package and isinstance(getattr(sys.modules[package], last, None), ModuleType):
        lines.append(f"from {package} import {last} as m\nit = m.{first}")
    for line in lines:
        exec(line, names := {})
        yield getattr(names["it"], attribute) if owner else names["it"]


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize("name", ["stylegan", "rosinality", "basicsr", "torch"])
def test_what_is_replaced_is_called(checkout, name, imported):
    files = CHECKOUTS[name]
    checkout(files)
    for module in modules_of(files) if imported else ():
        with suppress(ImportError):  # of an extension that is not built
            importlib.import_module(module)
    fastgan.patch(name)
    for module in modules_of(files):
        importlib.import_module(module)
    found, family = statuses(fastgan.patch(name)), patching.load(name)
    originals = {inspect.unwrap(theirs).__code__ for theirs, _ in patching._patched[name].originals.values()}
    count = 0
    for module, functions in family.functions.items():
        for function, ours in functions.items():
            if found[f"{module}.{function}"] != "replaced":
                assert module not in sys.modules or function not in "FusedLeakyReLU.forward modulated_conv2d"
                continue
            owner = getattr(sys.modules[module], function.rpartition(".")[0], None)
            call = (ours.calls(owner) if callable(ours.calls) else ours.calls)[0]
            for spelled in spellings(module, function):
                run = code_run(lambda: call.then(spelled(*deepcopy(call.args), **call.kwargs)))  # noqa: B023
                assert not run & originals, (module, function)
                where = "/fastgan/" if function in WITHOUT_OPS else "/fastgan/ops/"
                files_run = {code.co_filename for code in run if "compat/patching" not in code.co_filename}
                assert any(where in file for file in files_run), (module, function)
                count += 1
    assert count >= {"stylegan": 40, "rosinality": 25, "basicsr": 18, "torch": 8}[name]


def test_biggans_spectral_norm_is_ours(checkout):
    checkout(BIGGAN)
    fastgan.patch("biggan")
    layer = importlib.import_module("layers").SNConv2d(3, 4, 3)
    run = code_run(layer.W_)
    assert any("/fastgan/ops/spectral_norm" in code.co_filename for code in run)


def held(roots):
    """Every attribute of the modules of a codebase, and of their classes."""
    seen = {}
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in roots or ".".join(name.split(".")[:3]) in roots:
            for key, value in vars(module).items():
                seen[name, key] = value
                if isinstance(value, type):
                    seen.update({(name, key, k): v for k, v in vars(value).items()})
    return seen


@pytest.mark.parametrize("imported", ["before", "after", "half"])
@pytest.mark.parametrize("name", CHECKOUTS)
def test_unpatch_restores(checkout, name, imported):
    files, finders, loaders = CHECKOUTS[name], list(sys.meta_path), (cpp_extension.load, cpp_extension.load_inline)
    checkout(files)
    roots = {module.partition(".")[0] for module in modules_of(files)} or {"torch.nn.utils"}
    modules = [m for m in modules_of(files) if name != "basicsr" or ("fused_act" not in m and "archs" not in m)]
    for module in {"before": modules, "after": [], "half": modules[: len(modules) // 2]}[imported]:
        importlib.import_module(module)
    before = held(roots)
    fastgan.patch(name)
    for module in modules:
        importlib.import_module(module)
    assert "replaced" in statuses(fastgan.patch(name)).values()
    fastgan.unpatch(name)
    now = held(roots)
    assert all(now[key] is value for key, value in before.items() if key[-1] != "__dict__")
    left = [k for k, v in now.items() if "fastgan" in (getattr(getattr(v, "__code__", None), "co_filename", ""))]
    assert [key for key in left if key[1] != "conv2d_resample"] == []
    assert sys.meta_path == finders
    assert (cpp_extension.load, cpp_extension.load_inline) == loaders
    with pytest.raises(ValueError, match=r"name must be a family that is patched \(none is\), got"):
        fastgan.unpatch(name)


@pytest.mark.parametrize("failing", range(3))
def test_a_patch_that_fails_leaves_nothing(checkout, monkeypatch, failing):
    checkout(STYLEGAN)
    importlib.import_module("training.networks")
    before, finders = held({"torch_utils", "training"}), list(sys.meta_path)
    calls, choose = itertools.count(), patching.choose

    def broken(*args):
        if next(calls) == failing:
            raise KeyboardInterrupt
        return choose(*args)

    monkeypatch.setattr(patching, "choose", broken)
    with pytest.raises(KeyboardInterrupt):
        fastgan.patch("stylegan")
    now = held({"torch_utils", "training"})
    assert all(now[key] is value for key, value in before.items())
    assert sys.meta_path == finders
    assert not patching._patched


def test_unpatch_leaves_what_was_changed_since(checkout):
    checkout(STYLEGAN)
    networks = importlib.import_module("training.networks")
    fastgan.patch("stylegan")
    networks.upsample2d = mine = object()
    del networks.bias_act.bias_act
    sys.meta_path.remove(patching._patched["stylegan"].finder)
    fastgan.unpatch("stylegan")
    assert networks.upsample2d is mine
    assert not hasattr(networks.bias_act, "bias_act")


def test_what_a_codebase_took_from_torch_stays_torchs(checkout):
    name = "torch_utils/ops/conv2d_gradfix.py"
    checkout(STYLEGAN | {name: "from torch.nn.functional import conv2d\n"})
    theirs = F.conv2d
    fastgan.patch("stylegan")
    module = importlib.import_module("torch_utils.ops.conv2d_gradfix")
    # Its arguments cannot be read.
    assert module.conv2d is F.conv2d is theirs
    assert statuses(fastgan.patch("stylegan"))["torch_utils.ops.conv2d_gradfix.conv2d"] == "left"


def test_what_a_version_lacks_is_reported(checkout):
    checkout(STYLEGAN | {"torch_utils/ops/fma.py": ""})
    importlib.import_module("training.networks")
    importlib.import_module("torch_utils.ops.fma")
    found = statuses(fastgan.patch("stylegan"))
    assert found["torch_utils.ops.fma.fma"] == "not there"
    assert found["torch_utils.ops.conv2d_gradfix.conv2d"] == "waiting for import"
    assert found["torch_utils.ops.filtered_lrelu.filtered_lrelu"] == "left"


def test_unpatched_where_it_was_imported_since(checkout):
    checkout(BASICSR)
    fastgan.patch("basicsr")
    archs = importlib.import_module("basicsr.archs")
    assert archs.act(X, torch.ones(3)).shape == X.shape
    ours = archs.act
    fastgan.unpatch("basicsr")
    assert archs.act is not ours
    assert archs.act is sys.modules["basicsr.ops.fused_act.fused_act"].fused_leaky_relu


# --- torch ---


@pytest.mark.parametrize("style", ["torch.nn.utils", "torch.nn.utils.parametrizations"])
@pytest.mark.parametrize("layer", [lambda: nn.Conv2d(3, 5, 3), lambda: nn.ConvTranspose2d(3, 5, 3)])
def test_spectral_norm_everywhere(checkout, style, layer):
    module = importlib.import_module(style)

    def made():
        torch.manual_seed(0)
        return module.spectral_norm(layer().double(), n_power_iterations=2)

    function, theirs = module.spectral_norm, made()
    fastgan.patch("torch")
    assert module.spectral_norm is not function
    ours = made()
    fastgan.unpatch("torch")
    assert module.spectral_norm is function
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for _ in range(2):
        torch.testing.assert_close(ours(X.double()), theirs(X.double()), rtol=1e-12, atol=1e-12)
    for network in (ours, theirs):
        network(X.double()).square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-12, atol=1e-12)


# --- names ---


def test_names():
    assert patching.family_of("StyleGAN2-ADA") == "stylegan"
    assert patching.family_of("gfpgan") == "basicsr"
    with pytest.raises(ValueError, match=r"name must be one of stylegan, .* got str 'dcgan'"):
        fastgan.patch("dcgan")
    with pytest.raises((TypeError, ValueError), match="name must be"):
        fastgan.patch(3)


@pytest.mark.parametrize("name", patching.FAMILIES)
def test_a_family_reports_every_function(checkout, name):
    report = fastgan.patch(name)
    family = patching.load(name)
    assert family.summary
    names = {row.name for row in report.rows}
    assert {f"{module}.{function}" for module, functions in family.functions.items() for function in functions} <= names
    assert set(family.left) <= names
    table = str(report).splitlines()
    assert table[0] == f"fastgan.patch({name!r})"
    assert len(table) == len(report.rows) + 1
    assert report.to_dict()["rows"][0]["name"] == report.rows[0].name


def test_command_lists_the_families(capsys):
    assert main(["patch", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for family, aliases in patching.FAMILIES.items() for name in (family, *aliases))


def test_command_shows_what_becomes_of_a_checkout(checkout, capsys, tmp_path):
    checkout(
        {name: text for name, text in STYLEGAN.items() if "gradfix" not in name} | {"training/networks.py": "1 / 0"}
    )
    assert main(["patch", "stylegan3", "--checkout", str(tmp_path / "checkout")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert lines["torch_utils.ops.bias_act.bias_act"] == "replaced: compared by a call"
    assert lines["torch_utils.ops.conv2d_gradfix.conv2d"] == "waiting for import"
    assert lines["training.networks"] == "cannot be imported: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stylegan3", "--checkout", "/not/there"], "--checkout must be a folder that exists, got '/not/there'"),
        (["stylegan3", "--checkout", "EMPTY"], "--checkout must have one of torch_utils.ops.bias_act, "),
        (["--checkout", "EMPTY"], "name must be given with --checkout"),
        (["dcgan"], "name must be one of stylegan, "),
    ],
)
def test_command_refuses(checkout, capsys, tmp_path, arguments, message):
    assert main(["patch", *(str(tmp_path) if a == "EMPTY" else a for a in arguments)]) == 2
    out, error = capsys.readouterr()
    assert error.startswith(f"fastgan patch: error: {message}")
    assert (out, error.count("\n")) == ("", 1)


def test_command_without_a_checkout_waits(checkout, capsys):
    assert main(["patch", "psp"]) == 0
    assert "op.fused_act.fused_leaky_relu " in (out := capsys.readouterr().out)
    assert "waiting for import" in out
