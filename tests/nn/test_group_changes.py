"""A network that is changed after it was grouped or accelerated does what torch does, and can always be restored."""

import copy
from collections import OrderedDict

import pytest
import torch
from nn_critic import STYLES, Critic
from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm

import fastgan
from fastgan.nn.utils import group_spectral_norm, ungroup_spectral_norm
from fastgan.spectral.group import is_grouped, report_since

MIXINS = ("BigGAN", "mimicry")
PARAMETRIZED = ("torch parametrization", "fastgan")


class Changing(Critic):
    """It knows how its layers are normalised."""

    def __init__(self, norm):
        super().__init__(norm)
        self.norm = norm


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def remove(layer, *, keep=True):
    if parametrize.is_parametrized(layer):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=keep)
    else:
        remove_spectral_norm(layer)


def layers(model):
    return [model.body[0], model.body[2], model.embed, model.head, model.extra]


def raw_name(layer):
    return next(name for name, _ in layer.named_parameters() if "weight" in name)


def removed(model):
    remove(model.head)


def all_removed(model):
    for layer in layers(model):
        remove(layer)


def removed_without_its_value(model):
    remove(model.body[0], keep=False)


def added_again(model):
    for layer in (model.body[0], model.head):
        remove(layer)
        torch.manual_seed(3)
        model.norm(layer)


def replaced(model):
    torch.manual_seed(3)
    model.head = model.norm(nn.Linear(4, 1))


def replaced_by_a_plain_one(model):
    torch.manual_seed(3)
    model.body[2] = nn.ConvTranspose2d(6, 4, 3, 2)


def taken_out_and_put_back(model):
    head, model.head = model.head, nn.Flatten()
    model(torch.ones(4, 3, 8, 8))
    model.head = head


def taken_out_for_a_forward(model):
    head, model.head = model.head, nn.Linear(4, 1, bias=False)
    nn.init.ones_(model.head.weight)
    model(torch.ones(2, 3, 8, 8))
    model.head = head


def renamed(model):
    model.body = nn.Sequential(OrderedDict(zip("abc", model.body, strict=True)))


def added(model):
    torch.manual_seed(3)
    model.body.append(model.norm(nn.Conv2d(4, 4, 1)))


def weights_assigned(model):
    for layer in layers(model):
        *path, name = raw_name(layer).split(".")
        owner = layer.get_submodule(".".join(path))
        setattr(owner, name, nn.Parameter(getattr(owner, name).detach() * 1.5))


def data_assigned(model):
    for p in model.parameters():
        p.data = p.detach() * 1.5


def buffers_assigned(model):
    for module in model.modules():
        for name, buffer in list(module._buffers.items()):
            setattr(module, name, buffer.detach().clone().roll(1))


def stacked(model):
    name = raw_name(model.head)
    parametrize.register_parametrization(model.head, "weight" if "." in name else name, Twice())


def root_parametrized(model):
    model.register_parameter("scale", nn.Parameter(torch.ones(2)))
    parametrize.register_parametrization(model, "scale", Twice())
    model(torch.ones(4, 3, 8, 8))
    parametrize.remove_parametrizations(model, "scale")
    model.scale = None


def root_stays_parametrized(model):
    model.register_buffer("scale", torch.ones(2))
    parametrize.register_parametrization(model, "scale", Twice())


def another_dtype_and_back(model):
    model.to(torch.float32)
    model(torch.ones(4, 3, 8, 8, dtype=torch.float32))
    model.to(torch.float64)


def emptied_and_loaded(model):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.to_empty(device="cpu")
    model.load_state_dict(state)


def assigned_by_loading(model):
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)


def frozen(model):
    model.requires_grad_(False)
    model.head.bias.requires_grad_(True)


def grouped_twice(model):
    if is_grouped(model):
        fastgan.accelerate(model)
        group_spectral_norm(model)
        fastgan.accelerate(model)


ANY_STYLE = [
    replaced,
    replaced_by_a_plain_one,
    taken_out_and_put_back,
    taken_out_for_a_forward,
    renamed,
    added,
    weights_assigned,
    data_assigned,
    buffers_assigned,
    root_parametrized,
    root_stays_parametrized,
    another_dtype_and_back,
    emptied_and_loaded,
    assigned_by_loading,
    frozen,
    grouped_twice,
]
TORCHS = [removed, all_removed, added_again, stacked]


def applies(change, style):
    if change is removed_without_its_value:
        return style in PARAMETRIZED
    return change not in TORCHS or style not in MIXINS


@pytest.mark.parametrize(
    ("group", "undo"),
    [(group_spectral_norm, ungroup_spectral_norm), (fastgan.accelerate, fastgan.restore)],
    ids=["grouped", "accelerated"],
)
@pytest.mark.parametrize("change", [*ANY_STYLE, *TORCHS, removed_without_its_value], ids=lambda f: f.__name__)
def test_after_a_change(change, group, undo, same, style, x):
    if not applies(change, style):
        pytest.skip(f"{style} has no such change")
    names = []

    def script(model, training):
        ours = is_grouped(model)
        seen = []

        def step(model):
            y = model(x, extra_uses=1)
            y.sum().backward()
            seen.append(y.detach())

        step(model)
        model.train(training)
        change(model)
        model.zero_grad()
        step(model)
        with torch.no_grad():  # torch can copy a layer with its hook after such a forward
            seen.append(model(x, extra_uses=1))
        # What has a parametrization shares its class with its copy: torch itself takes it out of one of them only.
        twin = model if change is root_stays_parametrized else copy.deepcopy(model)
        step(twin)
        if ours:
            group(model)
        step(model)
        if ours:
            if change is grouped_twice:
                fastgan.restore(model)
            elif change is not all_removed or undo is fastgan.restore:
                undo(model)
            assert not is_grouped(model)
            assert not any(name.startswith("_fastgan") for module in model.modules() for name in vars(module))
        step(model)
        names.append([*model.state_dict(), *(name for name, _ in model.named_modules())])
        return seen

    tolerance = 1e-6 if change is another_dtype_and_back else 1e-12
    for training in (True, False):
        same(lambda model, training=training: script(model, training), Changing, group, tolerance)
    assert names[0] == names[1]
    assert names[2] == names[3]


GONE, NEW = "it was removed, or replaced, since", "it is not in the group: group again"
EXPECTED = {
    removed: {"head.weight": GONE},
    added_again: {"body.0.weight": NEW, "head.weight": NEW},
    replaced: {"head.weight": NEW},
    replaced_by_a_plain_one: {"body.2.weight": GONE},
    added: {"body.3.weight": NEW},
    weights_assigned: {},
    taken_out_and_put_back: {"head.weight": NEW},
    assigned_by_loading: {},
    ungroup_spectral_norm: dict.fromkeys(
        ("body.0.weight", "body.2.weight", "embed.weight", "head.weight", "extra.weight"),
        "the network is no longer grouped",
    ),
}


@pytest.fixture
def model(style):
    torch.manual_seed(0)
    return Changing(STYLES[style][1])


@pytest.mark.parametrize("change", EXPECTED, ids=lambda f: f.__name__)
def test_the_report_tells(change, style, model):
    if not applies(change, style):
        pytest.skip(f"{style} has no such change")
    report = group_spectral_norm(model)
    assert report_since(model, report) == report
    change(model)
    now = report_since(model, report)
    assert {layer.path: layer.reason for layer in now.skipped} == EXPECTED[change]
    assert now.grouped == [layer for layer in report.grouped if layer.path not in EXPECTED[change]]


@pytest.mark.parametrize("change", [replaced, removed, added_again])
def test_what_is_gone_is_not_computed(change, style, model, op_calls, x):
    if not applies(change, style):
        pytest.skip(f"{style} has no such change")
    group_spectral_norm(model)
    change(model)
    model(x)
    op_calls.clear()
    model(x)
    # Four layers have the same settings, the head has its own; one of the four was replaced too by `added_again`.
    together = [3 if change is added_again else 4]
    # fastgan's parametrization calls the op by itself.
    alone = {removed: 0, replaced: 1, added_again: 2}[change] * (style == "fastgan")
    assert op_calls == together + [1] * alone
