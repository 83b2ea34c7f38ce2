"""Modules of ours where there is no codebase, and what becomes of them when there is one."""

import importlib
import pickle
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from codebases.forks import BASICSR, LAST, ROSINALITY, STYLEGAN

import fastgan
from fastgan import functional
from fastgan.compat import patching

X = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def statuses(family):
    return {row.name: row.status for row in fastgan.patch(family).rows}


def test_an_implementation_may_be_named_in_its_place(checkout):
    fastgan.patch("stylegan")
    ops = importlib.import_module("torch_utils.ops.bias_act")
    y = ops.bias_act(X, None, 1, "lrelu", None, None, None, "cuda")
    assert torch.equal(y, functional.bias_act(X, act="lrelu"))


def test_modules_stand_in_for_pickles(checkout):
    assert statuses("stylegan")["torch_utils.ops.bias_act"] == "stands in where it is not found"
    ops = importlib.import_module("torch_utils.ops.bias_act")
    assert statuses("stylegan")["torch_utils.ops.bias_act"] == "stands in"
    assert statuses("stylegan")["torch_utils.ops.bias_act.bias_act"] == "stands in"
    assert ops.activation_funcs["lrelu"].def_gain == pytest.approx(2**0.5)
    assert not hasattr(ops.activation_funcs["lrelu"], "gone")
    resample = importlib.import_module("torch_utils.ops.conv2d_resample")
    assert resample.conv2d_resample(X, torch.ones(4, 3, 3, 3), padding=1).shape == (2, 4, 8, 8)
    fastgan.unpatch("stylegan")
    assert not [name for name in sys.modules if name.partition(".")[0] == "torch_utils"]


def test_the_op_package_may_be_missing(checkout):
    checkout({"model.py": ROSINALITY["model.py"]})
    fastgan.patch("rosinality")
    model = importlib.import_module("model")
    y = F.leaky_relu(X + torch.ones(3, 1, 1), 0.2) * 2**0.5
    torch.testing.assert_close(model.fused_leaky_relu(X, torch.ones(3)), y)
    layer = model.FusedLeakyReLU(3)
    assert list(layer.state_dict()) == ["bias"]
    torch.testing.assert_close(layer(X), F.leaky_relu(X, 0.2) * 2**0.5)
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1]))
    expected = functional.upfirdn2d(X, kernel, up=2, padding=[2, 1, 2, 1])
    assert torch.equal(model.upfirdn2d(X, kernel, up=2, pad=(2, 1)), expected)
    assert model.other is model.upfirdn2d
    assert not isinstance(model.upfirdn2d, ModuleType)


def test_extensions_may_be_missing(checkout):
    checkout(BASICSR)
    fastgan.patch("real-esrgan")
    fused_act = importlib.import_module("basicsr.ops.fused_act")
    torch.testing.assert_close(fused_act.fused_leaky_relu(X, torch.ones(3)), F.leaky_relu(X + 1, 0.2) * 2**0.5)
    upfirdn2d = importlib.import_module("basicsr.ops.upfirdn2d")
    kernel = torch.ones(4, 4) / 16
    assert torch.equal(upfirdn2d.upfirdn2d(X, kernel, down=2, pad=(1, 1)), functional.downsample2d(X, kernel))
    assert statuses("basicsr")["basicsr.ops.fused_act.fused_act_ext"] == "stands in"
    fastgan.unpatch("basicsr")
    assert "basicsr.ops.fused_act.fused_act_ext" not in sys.modules
    assert not hasattr(fused_act, "fused_act_ext")


# --- a checkout that comes later ---

LATER = STYLEGAN | {
    "torch_utils/__init__.py": "real = True\n",
    "torch_utils/persistence.py": "from torch_utils.ops import bias_act\n",
    "torch_utils/ops/fma.py": "def fma(a, b, c):\n    return a * b + c + 1\n",
}
FIRST = ["torch_utils.persistence", "training.networks", "torch_utils.ops.grid_sample_gradfix"]


@pytest.mark.parametrize("first", FIRST)
def test_a_checkout_on_the_path_later_is_found(checkout, first):
    fastgan.patch("stylegan")
    ours = importlib.import_module("torch_utils.ops.bias_act")
    importlib.import_module("torch_utils.ops.fma")
    with pytest.raises(ModuleNotFoundError, match="persistence"):
        importlib.import_module("torch_utils.persistence")
    checkout(LATER)
    importlib.import_module(first)
    assert sys.modules["torch_utils"].real
    now = importlib.import_module("torch_utils.ops.bias_act")
    assert now is ours
    assert set(now.activation_funcs) == {"linear", "relu", "lrelu", "tanh", "swish"}
    assert torch.equal(now.bias_act(X, act="lrelu"), functional.bias_act(X, act="lrelu"))
    found = statuses("stylegan")
    assert found["torch_utils.ops.bias_act.bias_act"] == "replaced"
    # Its own rule is kept, although ours stood in.
    assert found["torch_utils.ops.fma.fma"] == "left"
    assert importlib.import_module("torch_utils.ops.fma").fma(1, 2, 3) == 6
    fastgan.unpatch("stylegan")
    assert "checkout" in now.bias_act.__code__.co_filename
    assert importlib.import_module("torch_utils.persistence").bias_act is now


def test_a_checkout_that_fails_is_an_error(checkout):
    fastgan.patch("stylegan")
    importlib.import_module("torch_utils.ops.bias_act")
    checkout({"torch_utils/__init__.py": "", "torch_utils/ops/__init__.py": "", "torch_utils/ops/bias_act.py": "1 / 0"})
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            importlib.import_module("torch_utils.ops.bias_act" if _ else "torch_utils.gone")


def test_a_module_beside_real_ones_stands_in(checkout):
    checkout({name: text for name, text in STYLEGAN.items() if not name.endswith("fma.py")})
    fastgan.patch("stylegan")
    importlib.import_module("torch_utils.ops.bias_act")
    fma = importlib.import_module("torch_utils.ops.fma")
    assert torch.equal(fma.fma(X, X, X), torch.addcmul(X, X, X))
    found = statuses("stylegan")
    assert (found["torch_utils.ops.fma.fma"], found["torch_utils.ops.bias_act.bias_act"]) == ("stands in", "replaced")
    fastgan.unpatch("stylegan")
    assert not hasattr(sys.modules["torch_utils.ops"], "fma")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torch_utils.ops.fma")


# --- pickles ---


def forget(*roots):
    for name in list(sys.modules):
        if name.partition(".")[0] in roots:
            del sys.modules[name]


@pytest.mark.parametrize("written", ["stand-in", "replaced", "theirs"])
@pytest.mark.parametrize("read", ["stand-in", "replaced", "theirs"])
@pytest.mark.parametrize(
    ("family", "module", "name"),
    [
        ("rosinality", "op.fused_act", "FusedLeakyReLU"),
        ("rosinality", "op.upfirdn2d", "upfirdn2d"),
        ("stylegan", "torch_utils.ops.bias_act", "bias_act"),
        ("stylegan", "torch_utils.ops.upfirdn2d", "upsample2d"),
        ("stylegan", "torch_utils.ops.conv2d_gradfix", "no_weight_gradients"),
    ],
)
def test_pickles_go_by_the_names_of_the_codebase(checkout, monkeypatch, family, module, name, written, read):
    root, path = module.partition(".")[0], list(sys.path)

    def there(kind):
        forget(root)
        monkeypatch.setattr(sys, "path", list(path))
        if kind != "stand-in":
            checkout({"rosinality": ROSINALITY, "stylegan": STYLEGAN}[family])
        if kind != "theirs":
            fastgan.patch(family)
        return getattr(importlib.import_module(module), name)

    it = there(written)
    pickled = pickle.dumps(it(3) if isinstance(it, type) else it)
    assert b"fastgan" not in pickled
    if family in patching._patched:
        fastgan.unpatch(family)
    it = there(read)
    loaded = pickle.loads(pickled)
    assert type(loaded) is it if isinstance(it, type) else loaded is it
    if isinstance(it, type):
        torch.testing.assert_close(loaded(X), F.leaky_relu(X, 0.2) * 2**0.5)


def test_every_package_has_its_own_rules(checkout):
    """Two packages of one family in one process."""
    deep = {f"models/stylegan2/{name}": text for name, text in ROSINALITY.items() if name.startswith("op/")}
    deep |= {"models/__init__.py": "", "models/stylegan2/__init__.py": "", "models/stylegan2/op/fused_act.py": LAST}
    checkout(ROSINALITY | deep)
    fastgan.patch("rosinality")
    x, bias = torch.randn(2, 3, 3), torch.randn(3)
    for name, where in (("op", bias[:, None]), ("models.stylegan2.op", bias)):
        op = importlib.import_module(name)
        torch.testing.assert_close(op.fused_leaky_relu(x, bias), F.leaky_relu(x + where, 0.2) * 2**0.5)
