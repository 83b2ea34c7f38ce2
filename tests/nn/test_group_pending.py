"""What is computed at the root's start is used once, in that forward, and only if nothing has changed meanwhile."""

import threading
from contextlib import nullcontext

import pytest
import torch
from nn_critic import STYLES
from samples import seeded
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as torch_hook
from torch.utils.checkpoint import CheckpointError, checkpoint

from fastgan.nn.utils import group_spectral_norm, spectral_norm


class Stack(nn.Module):
    """Two layers, with a function to run between the root's start and their use."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.second = norm(nn.Linear(3, 3)), norm(nn.Linear(3, 3))
        self.before = lambda model: None
        self.between = lambda model: None

    def forward(self, x):
        self.before(self)
        x = self.first(x).tanh()
        self.between(self)
        return self.second(x)


@pytest.fixture
def x():
    return torch.randn(4, 3, generator=seeded(2))


def forwards(x, action):
    """A script of two steps during whose forwards the action runs."""

    def script(model):
        model.between = action
        outputs = []
        for _ in range(2):
            outputs.append(model(x))
            outputs[-1].sum().backward()
        return outputs

    return script


def raw_weight(layer):
    return next(value for name, value in layer.named_parameters() if "weight" in name)


def change_weight(model):
    with torch.no_grad():
        raw_weight(model.second).add_(torch.eye(3))


def change_u(model):
    next(model.second.buffers()).copy_(torch.tensor([1.0, 0, 0]))


def replace_weight(model):
    new = nn.Parameter(raw_weight(model.second).detach() + torch.eye(3))
    if hasattr(model.second, "parametrizations"):
        model.second.parametrizations.weight.original = new
    else:
        setattr(model.second, "weight_orig" if hasattr(model.second, "weight_orig") else "weight", new)


def change_mode(model):
    model.second.eval()


def load_state(model):
    model.load_state_dict({key: value * 0.5 for key, value in model.state_dict().items()})


@pytest.mark.parametrize("action", [change_u, replace_weight, change_mode])
def test_a_change_between_the_start_and_the_use(same, x, action, style):
    # The layer that was changed is computed by itself in that forward, the other one is not.
    alone = [1] if style == "fastgan" else []
    second = [2, *alone]
    if action is change_mode:
        # In eval mode too, BigGAN and mimicry iterate u, to forget it.
        second = [2] if style in ("BigGAN", "mimicry") else [1, 1]
    assert same(forwards(x, action), Stack) == [2, *alone, *second]


def test_a_weight_changed_in_place_between_the_start_and_the_use(same, x):
    def script(model):
        model.between = change_weight
        with torch.no_grad():
            return [model(x) for _ in range(2)]

    same(script, Stack)


def test_a_weight_changed_in_place_in_the_forward_fails_the_backward(x):
    # One node of the graph holds all weights: torch sees that one of them has changed, though the layer did not use it.
    model = Stack(torch_hook)
    model.between = change_weight
    group_spectral_norm(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(x).sum().backward()


def test_load_state_dict_between_forwards(same, x):
    def script(model):
        outputs = [model(x)]
        load_state(model)
        return [*outputs, model(x)]

    assert same(script, Stack) == [2, 2]


@pytest.mark.parametrize("outer", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("inner", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_grad_mode_that_changes_inside(same, x, outer, inner):
    class Inner(Stack):
        def forward(self, x):
            with inner():
                # A read of the weight, used outside of the block.
                scale = self.first(torch.ones_like(x)).mean()
                weight = self.first.weight
            return self.second(x) @ weight.clone() + scale.clone()

    def script(model):
        with outer():
            y = model(x)
        if y.requires_grad:
            y.sum().backward()
        return y, y.requires_grad

    same(script, Inner)


def test_inference_mode(same, x):
    def script(model):
        with torch.inference_mode():
            outputs = [model(x).clone() for _ in range(2)]
        return [*outputs, model(x)]

    assert same(script, Stack) == [2, 2, 2]


def test_parameters_made_in_inference_mode(same, x):
    def make(norm):
        with torch.inference_mode():
            return Stack(norm).eval()

    def script(model):
        with torch.inference_mode():
            return model(x)

    assert same(script, make) == [2]


def test_a_forward_that_fails_commits_what_was_used_and_drops_the_rest(same, x):
    def fail(model):
        raise ArithmeticError

    def script(model):
        model.between = fail
        with pytest.raises(ArithmeticError):
            model(x)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        model.between = lambda model: None
        return state, model.second(x), model(x)

    same(script, Stack)


def test_a_forward_inside_the_forward(same, x):
    def again(model):
        model.between = lambda model: None
        model(torch.ones(1, 3))

    def script(model):
        model.between = again
        y = model(x)
        y.sum().backward()
        return y

    same(script, Stack)


def test_a_submodule_of_a_running_root_called_by_its_gradient(same, x):
    def script(model):
        y = model(x)
        # The use is in the backward, outside of the forward.
        y.register_hook(lambda grad: grad * model.second(x).sum().detach())
        y.sum().backward()
        return y

    same(script, Stack)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("part", ["second", "root"])
def test_checkpointing(same, x, use_reentrant, part):
    class Checkpointed(Stack):
        def forward(self, x):
            x = self.first(x).tanh()
            return checkpoint(self.second, x, use_reentrant=use_reentrant) if part == "second" else self.second(x)

    def script(model):
        outputs = []
        for _ in range(2):
            given = x.clone().requires_grad_()
            y = checkpoint(model, given, use_reentrant=use_reentrant) if part == "root" else model(given)
            y.sum().backward()
            outputs += [y, given.grad]
        return outputs

    # Before torch 2.8, what the part saves cannot be told from what the root does.
    refused = part == "second" and not use_reentrant and torch.__version__ < "2.8"
    with pytest.raises(CheckpointError) if refused else nullcontext():
        same(script, Checkpointed)


def test_offloaded_saved_tensors(same, x):
    def script(model):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            y = model(x)
        y.sum().backward()
        return y

    assert same(script, Stack) == [2]


# torch's hook hands the weight over in an attribute of the module, which threads overwrite.
@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
def test_two_threads_do_not_share_a_graph(norm):
    model = nn.Sequential(*(norm(nn.Linear(3, 3)) for _ in range(3))).eval()
    weights = [p for name, p in model.named_parameters() if "bias" not in name]
    x = torch.ones(1, 3)

    def gradients():
        return torch.autograd.grad(model(x).sum(), weights)

    expected = gradients()
    group_spectral_norm(model)
    failures = []

    def work():
        try:
            for _ in range(50):
                torch.testing.assert_close(gradients(), expected, rtol=1e-12, atol=1e-12)
        except (RuntimeError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("training", [True, False])
def test_eight_threads(training, style):
    """As in plain torch, u and v are those of some thread in training; in evaluation every output is right."""
    model = Stack(STYLES[style][1])
    with torch.no_grad():
        for layer in (model.first, model.second):
            raw_weight(layer).copy_(torch.diag(torch.tensor([3.0, 1.0, 0.5])))
    group_spectral_norm(model)
    x = torch.randn(4, 3, generator=seeded(2))
    for _ in range(40):  # u and v have converged: in training mode too, every forward returns the same
        model(x)
    model.train(training)
    right, outputs, barrier = model(x).detach(), [], threading.Barrier(8)

    def run():
        barrier.wait()
        outputs.extend(model(x).detach() for _ in range(20))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 160
    for output in outputs:
        torch.testing.assert_close(output, right, rtol=1e-9, atol=1e-9)
