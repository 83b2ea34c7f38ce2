"""Grouping, regrouping, ungrouping; copies; the report; what is left alone."""

import copy
import io
from itertools import pairwise

import pytest
import torch
from nn_mixins import LAYERS, SN, biggan, mimicry
from torch import nn
from torch.nn.utils import parametrizations, parametrize, remove_spectral_norm
from torch.nn.utils import spectral_norm as torch_hook
from torch.optim.swa_utils import AveragedModel

from fastgan.around import surroundings
from fastgan.nn.utils import group_spectral_norm, spectral_norm, ungroup_spectral_norm

NORMS = {
    "torch hook": torch_hook,
    "torch parametrization": parametrizations.spectral_norm,
    "fastgan": spectral_norm,
    "BigGAN": biggan,
    "mimicry": mimicry,
}


def normed(*sizes, norm=parametrizations.spectral_norm):
    return nn.Sequential(*(norm(nn.Linear(m, n)) for m, n in pairwise(sizes)))


def test_ungrouping_leaves_no_trace(style):
    model = normed(3, 4, 2, norm=NORMS[style])

    def inventory():
        holders = [hook for m in model.modules() for hook in m._forward_pre_hooks.values()] + list(model.modules())
        hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]
        return [(type(h), sorted(vars(h))) for h in holders], hooks, list(model.state_dict())

    before = inventory()
    group_spectral_norm(model)
    assert inventory()[0] != before[0]
    assert inventory()[1:] == before[1:]
    ungroup_spectral_norm(model)
    assert inventory() == before
    with pytest.raises(ValueError, match="model must be a network that was grouped, got an ungrouped Sequential"):
        ungroup_spectral_norm(model)


def test_regrouping_is_idempotent_and_finds_new_layers(op_calls):
    model = normed(3, 3, 3)
    assert group_spectral_norm(model) == group_spectral_norm(model)
    model.append(parametrizations.spectral_norm(nn.Linear(3, 3)))
    op_calls.clear()
    model(torch.ones(2, 3))
    assert op_calls == [2]
    assert len(group_spectral_norm(model).grouped) == 3
    model(torch.ones(2, 3))
    assert op_calls == [2, 3]
    assert len(surroundings(model)) == 1


def test_a_grouped_part_is_regrouped_with_the_whole(op_calls):
    model = nn.Sequential(normed(3, 3), normed(3, 3))
    group_spectral_norm(model[0])
    group_spectral_norm(model)
    model(torch.ones(1, 3))
    assert op_calls == [2]
    assert not surroundings(model[0])
    with pytest.raises(ValueError, match=r"model must not be a part of a network that is grouped already.*'0\.weight'"):
        group_spectral_norm(model[1])
    ungroup_spectral_norm(model)
    group_spectral_norm(model[1])


def test_groups_of_parts_are_ungrouped_from_the_whole():
    model = nn.Sequential(normed(3, 3), normed(3, 3))
    for part in model:
        group_spectral_norm(part)
    ungroup_spectral_norm(model)
    assert not any(map(surroundings, model.modules()))


def test_a_network_without_spectral_norm_is_left_alone():
    model = nn.Linear(3, 3)
    report = group_spectral_norm(model)
    assert report == ([], [])
    assert not surroundings(model)


def test_the_root_may_be_a_layer(same, op_calls):
    def script(model):
        y = model(torch.ones(2, 3))
        y.sum().backward()
        return y

    assert same(script, lambda norm: norm(nn.Linear(3, 2))) == [1]


def test_a_layer_may_be_reached_by_two_paths(op_calls):
    layer = parametrizations.spectral_norm(nn.Linear(3, 3))
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert [layer.path for layer in group_spectral_norm(model).grouped] == ["0.weight"]


@pytest.mark.parametrize("style", ["torch hook", "torch parametrization", "fastgan"])
def test_the_norm_of_a_grouped_layer_may_be_removed(style):
    plain, grouped = (normed(3, 3, 3, norm=NORMS[style]) for _ in "ab")
    grouped.load_state_dict(plain.state_dict())
    group_spectral_norm(grouped)
    for model in (plain, grouped):
        model(torch.ones(1, 3))
        if style == "torch hook":
            remove_spectral_norm(model[0])
        else:
            parametrize.remove_parametrizations(model[0], "weight")
    torch.testing.assert_close(grouped(torch.ones(1, 3)), plain(torch.ones(1, 3)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grouped.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)
    ungroup_spectral_norm(grouped)


# --- copies ---


def test_a_deep_copy_is_a_group_of_its_own(same, x, op_calls):
    def script(model):
        twin = copy.deepcopy(model)
        outputs = [model(x), twin(x * 2), model(x), twin(x)]
        sum(outputs).sum().backward()
        return outputs, {key: value.clone() for key, value in twin.state_dict().items()}

    assert same(script) == [4, 1] * 4


def test_a_deep_copy_of_a_part_does_not_hold_the_whole(same, x, op_calls):
    def script(model):
        memo = {}
        part = copy.deepcopy(model.body, memo)
        assert id(model) not in memo
        assert id(model.head) not in memo
        return part(x), model(x), part(x)

    same(script)


def test_copies_can_be_ungrouped_and_grouped_on_their_own():
    model = normed(3, 3, 3)
    group_spectral_norm(model)
    twin = copy.deepcopy(model)
    with pytest.raises(ValueError, match="part of a network"):
        group_spectral_norm(twin[0])
    ungroup_spectral_norm(twin)
    group_spectral_norm(copy.deepcopy(model)[0])
    part = copy.deepcopy(model[0])
    group_spectral_norm(part)
    part(torch.ones(1, 3))
    ungroup_spectral_norm(model)


def test_an_ema_copy(same, x, op_calls, style):
    def script(model):
        ema = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
            ema.update_parameters(model)
        ema.eval()
        return ema(x), dict(ema.state_dict())

    # BigGAN does one iteration in eval mode, whatever the number in training.
    assert same(script) == [4, 1, 4, 1, *([5] if style == "BigGAN" else [4, 1])]


def test_saved_state_is_loaded_by_an_ungrouped_network_and_the_reverse(style):
    plain, grouped = (normed(3, 3, 3, norm=NORMS[style]) for _ in "ab")
    group_spectral_norm(grouped)
    for source, target in ((grouped, plain), (plain, grouped)):
        source(torch.ones(1, 3))
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.load_state_dict(torch.load(file, weights_only=True))
        torch.testing.assert_close(target(torch.ones(1, 3)), source(torch.ones(1, 3)), rtol=1e-12, atol=1e-12)


def test_a_pickled_network_stays_grouped(op_calls):
    # Of the styles, torch's hook is the one whose modules torch can pickle.
    model = normed(3, 3, 3, norm=torch_hook)
    group_spectral_norm(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = torch.ones(1, 3)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    assert op_calls == [2, 2]
    ungroup_spectral_norm(loaded)


# --- the report ---


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_the_report_names_what_is_left_alone_and_why(op_calls):
    after = parametrize.register_parametrization(nn.Linear(3, 3), "weight", Twice())
    first = parametrizations.spectral_norm(nn.Linear(3, 3))
    shared = torch_hook(nn.Linear(3, 3))
    shared.weight_u = (owner := torch_hook(nn.Linear(3, 3))).weight_u
    model = nn.ModuleDict(
        {
            "vector": parametrizations.spectral_norm(nn.LayerNorm(3)),
            "after": parametrizations.spectral_norm(after),
            "first": parametrize.register_parametrization(first, "weight", Twice()),
            "complex": parametrizations.spectral_norm(nn.Linear(3, 3, dtype=torch.complex128)),
            "ours": spectral_norm(nn.Conv2d(3, 2, 1)),
            "owner": owner,
            "shared": shared,
        }
    )
    report = group_spectral_norm(model)
    assert report.grouped == [
        ("first.weight", "torch parametrization", (3, 3)),
        ("ours.weight", "fastgan", (2, 3, 1, 1)),
        ("owner.weight", "torch hook", (3, 3)),
    ]
    reasons = {layer.path: layer.reason for layer in report.skipped}
    assert reasons == {
        "vector.weight": "it normalises a vector",
        "after.weight": "another parametrization comes before it, or its original is not a parameter",
        "complex.weight": "its dtype is torch.complex128",
        "shared.weight": "another layer has the same u or v",
    }
    text = repr(report)
    assert text.startswith("3 spectrally normalised layers grouped, 4 left alone\n")
    assert "\n  ours.weight [2, 3, 1, 1] (fastgan)\n" in text
    assert text.endswith("left alone: shared.weight (torch hook): another layer has the same u or v")


# --- layers that are known by their members ---


class Scaled(LAYERS[SN, nn.Linear]):
    """A method of the name, which computes something else."""

    def W_(self):
        return 2 * super().W_()


def test_a_mixin_that_the_op_does_not_compute_is_left_alone(op_calls):
    layers = {name: biggan(nn.Linear(4, 3)) for name in ("same", "two", "transposed", "none", "own")}
    layers["two"].num_svs = 2
    layers["transposed"].transpose = True
    layers["none"].num_itrs = 0
    layers["own"].W_ = layers["own"].W_
    layers["fails"] = biggan(nn.Conv2d(4, 3, 3)).to(memory_format=torch.channels_last)
    layers["scaled"] = Scaled(nn.Linear(4, 3), 1)
    layers["other u"] = biggan(nn.Linear(4, 3))
    layers["other u"].u0 = torch.ones(1, 4)
    model = nn.ModuleDict(layers)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    buffers = [id(b) for b in model.buffers()]
    report = group_spectral_norm(model)
    assert report.grouped == [("same.weight", "BigGAN", (3, 4))]
    reasons = {layer.path.partition(".")[0]: layer.reason for layer in report.skipped}
    needs = "it is computed together with others only with a parameter weight and num_svs 1, transpose False, num_itrs "
    assert reasons.pop("fails").startswith("its W_ fails: view size is not compatible")
    assert reasons == {
        "two": needs + "1 or more; it has num_svs 2, transpose False, num_itrs 1",
        "transposed": needs + "1 or more; it has num_svs 1, transpose True, num_itrs 1",
        "none": needs + "1 or more; it has num_svs 1, transpose False, num_itrs 0",
        "own": "its own W_ was replaced",
        "scaled": "its W_ computes something else than BigGAN's",
        "other u": "its u [4] and v [4] do not fit its shape [3, 4]",
    }
    # Nothing of the comparison is left.
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert [id(b) for b in model.buffers()] == buffers
    assert all(layer.training for layer in layers.values())


@pytest.mark.parametrize("change", [lambda layer: setattr(layer, "num_itrs", 3), lambda layer: layer.eval()])
def test_settings_of_a_mixin_changed_later_count(change, op_calls):
    plain, grouped = (nn.Sequential(biggan(nn.Linear(4, 3))) for _ in "ab")
    grouped.load_state_dict(plain.state_dict())
    group_spectral_norm(grouped)
    op_calls.clear()
    for model in (plain, grouped):
        change(model[0])
    torch.testing.assert_close(grouped(torch.ones(1, 4)), plain(torch.ones(1, 4)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grouped.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)
    assert op_calls == [1]
