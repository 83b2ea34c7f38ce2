"""Networks with one chain of calls, and what may happen between the calls: accelerated against untouched."""

import copy

import torch
import torch.nn.functional as F
from samples import seeded
from torch import nn
from torch.nn.utils import spectral_norm
from torch.overrides import _get_current_function_mode_stack

import fastgan
from fastgan.fusion.deferred import is_waiting
from fastgan.fusion.report import PLAIN


class Chained(nn.Module):
    """`first`, then whatever `between` does with its result, then `second`.

    `between(h, net)` returns what goes on, None for h itself.
    """

    def __init__(self):
        super().__init__()
        self.between = None

    def forward(self, x):
        h = self.first(x)
        if self.between is not None:
            result = self.between(h, self)
            h = h if result is None else result
        return self.second(h)


class Up(Chained):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def first(self, x):
        return F.interpolate(x, scale_factor=2)

    def second(self, h):
        return self.conv(h)


class Down(Chained):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def first(self, x):
        return self.conv(x)

    def second(self, h):
        return F.avg_pool2d(h, 2)


class Norm(Chained):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def first(self, x):
        return self.norm(x)

    def second(self, h):
        return F.relu(h)


class InPlace(Norm):
    def second(self, h):
        return F.leaky_relu(h, 0.3, inplace=True)


class Bias(Chained):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(-1, 1, 4))

    def first(self, x):
        return x + self.bias.view(1, -1, 1, 1)

    def second(self, h):
        return F.leaky_relu(h, 0.2) * 2**0.5


CHAINS = {make.__name__: make for make in (Up, Down, Norm, InPlace, Bias)}


class Network(nn.Module):
    """Every chain, each in its own module; spectral norm."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = Up(), Norm(), Down()
        self.stem = nn.Conv2d(3, 4, 1)
        self.head = spectral_norm(nn.Linear(3, 2))
        self.bias = Bias()

    def forward(self, x):
        h = self.bias(self.stem(self.up(x)))
        return self.head(self.down(self.norm(h)).mean((2, 3)))


def build(make, seed=0):
    """A network with random numbers wherever it has any."""
    torch.manual_seed(seed)
    net = make()
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    return net


def images(n=2, seed=1, size=4):
    """[n, 4, size, size]."""
    return torch.randn(n, 4, size, size, generator=seeded(seed), dtype=torch.get_default_dtype())


def accelerated(net, *inputs):
    """A copy of it, accelerated, that has seen its first forward."""
    net = copy.deepcopy(net)
    buffers = copy.deepcopy(dict(net.named_buffers()))
    report = fastgan.accelerate(net)
    net(*inputs or (images(),))
    assert any(row.runs != PLAIN for rows in report.rows for row in rows), report
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])
    return net


def outcome(function, *args):
    """What it returns, or (kind, message) of what it raises."""
    try:
        return function(*args)
    except Exception as error:
        return type(error), str(error)


def watch(net):
    """Have its next forwards say whether the chain's tensor waits, before `between` sees it."""
    between, waited = net.between, []

    def watching(h, net):
        waited.append(is_waiting(h))
        return between(h, net)

    net.between = watching
    return waited


def trace(net):
    """All that can be found on the modules."""

    def known(value):
        if isinstance(value, torch.Tensor):  # the weight of a spectral norm is another one in every forward
            return "a tensor"
        return sorted(map(str, value)) if isinstance(value, dict) else id(value)

    return {
        path: (type(module), {name: known(value) for name, value in vars(module).items()})
        for path, module in net.named_modules()
    }


def assert_no_mode():
    """Nothing of a forward stays after it."""
    assert not _get_current_function_mode_stack()


def step(net, *inputs, seen=(), call=None):
    """Output, gradients and buffers of a forward and backward; `seen` are tensors that `between` puts aside."""
    inputs = [x.clone().requires_grad_(torch.is_grad_enabled() and x.is_floating_point()) for x in inputs]
    out = (net if call is None else call)(*inputs)
    values = [out, *seen]
    live = [t for t in values if isinstance(t, torch.Tensor) and t.requires_grad]
    for p in net.parameters():
        p.grad = None
    if live:
        torch.autograd.backward([(t * torch.linspace(1, 2, t.numel()).view(t.shape)).sum() for t in live])
    grads = {name: p.grad for name, p in net.named_parameters()}
    return plain_values((values, [x.grad for x in inputs], grads, dict(net.named_buffers())))


def plain_values(value):
    """The same, detached and copied."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, (tuple, list)):
        return [plain_values(item) for item in value]
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    return value


def assert_same(ours, theirs, tolerance=1e-10):
    """Nested values: tensors to rounding, whatever else exactly."""
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    elif isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other, tolerance)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, other in theirs.items():
            assert_same(ours[key], other, tolerance)
    else:
        assert ours == theirs


def compare(make, between, *, steps=1, waits=True, refusal=None):
    """Run `between(h, net, seen)` in an untouched and in an accelerated network; everything must be the same.

    What plain torch refuses must be refused as well: then the kinds of both errors are compared. `refusal` is what an
    error of ours may say where plain torch has none.
    """
    plain = build(make)
    results = []
    for net in (accelerated(plain), plain):
        seen = []
        net.between = lambda h, net, seen=seen: between(h, net, seen[-1])
        waited = watch(net)
        result = outcome(run_steps, net, seen, steps)
        assert_no_mode()
        assert waited[:1] == [net is not plain and waits]
        results.append((result, plain_values(seen)))
    (ours, our_seen), (theirs, their_seen) = results
    if isinstance(theirs, tuple):
        # Fused, less is saved for the backward that could be changed after it.
        if isinstance(ours, tuple) or "modified by an inplace operation" not in theirs[1]:
            assert isinstance(ours, tuple), f"plain torch raises {theirs}"
            assert ours[0] is theirs[0], (ours, theirs)
        return
    if isinstance(ours, tuple) and refusal and refusal in ours[1]:
        return
    assert not isinstance(ours, tuple), ours
    assert_same(ours, theirs)
    assert_same(our_seen, their_seen)


def run_steps(net, seen, steps):
    """A list of what `step` returns; `seen` gets a list for each."""
    results = []
    for i in range(steps):
        seen.append([])
        results.append(step(net, images(seed=i), seen=seen[-1]))
    return results
