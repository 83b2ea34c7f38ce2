"""A deferred tensor is a tensor like any other, whatever is done with it between the calls of its chain."""

import contextlib
import copy
import gc
import io
import pickle
import threading
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deferrals import CHAINS, accelerated, assert_no_mode, assert_same, build, compare, images, outcome, step
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

import fastgan
from fastgan.fusion.deferred import is_waiting

pytestmark = pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)

KNOWN = {
    "shape": lambda h: h.shape,
    "size": lambda h: (h.size(), h.size(1), h.size(-1)),
    "dim": lambda h: (h.dim(), h.ndim, h.ndimension()),
    "numel": lambda h: (h.numel(), torch.numel(h), h.nelement()),
    "len": len,
    "dtype": lambda h: (h.dtype, h.is_floating_point(), torch.is_floating_point(h), h.is_complex(), h.element_size()),
    "device": lambda h: (h.device, h.is_cuda, h.is_cpu, h.get_device(), h.layout),
    "requires_grad": lambda h: h.requires_grad,
    "isinstance": lambda h: (isinstance(h, torch.Tensor), torch.is_tensor(h)),
}


@pytest.mark.parametrize("ask", KNOWN.values(), ids=KNOWN)
def test_known_without_computing(make, ask, grad):
    def between(h, net, seen):
        waited = is_waiting(h)
        seen.append(ask(h))
        assert is_waiting(h) == waited

    compare(make, between)


def saved(h):
    file = io.BytesIO()
    torch.save(h, file)
    file.seek(0)
    return torch.load(file)


def listed(h):
    return [row.sum() for row in h]


def hooked(h):
    if not h.requires_grad:
        return h.register_hook(lambda g: g)
    handle = h.register_hook(lambda g: g * 2)
    return type(handle).__name__


def graph(h):
    return None if h.grad_fn is None else (h.grad_fn.name(), len(h.grad_fn.next_functions))


READS = {
    "stride": lambda h: (h.stride(), h.is_contiguous(), h.storage_offset()),
    "storage": lambda h: h.untyped_storage().nbytes(),
    "data_ptr": lambda h: h.data_ptr() != 0,
    "index": lambda h: h[1, 0],
    "slices": lambda h: (h[..., 1:], h[:, None], h[h > 0]),
    "repr": repr,
    "str": lambda h: (str(h), f"{h}"),
    "format": lambda h: f"{h[0, 0, 0, 0]:.2f}",
    "iterate": listed,
    "unpack": lambda h: tuple(h)[1],
    "contains": lambda h: 0.0 in h,
    "bool": lambda h: (bool((h > 1e9).any()), outcome(bool, h)),
    "item": lambda h: (h.sum().item(), outcome(h.item), float(h.mean()), int(h.max())),
    "tolist": lambda h: h.tolist(),
    "numpy": lambda h: outcome(lambda: torch.from_numpy(h.numpy().copy())),
    "numpy of detached": lambda h: torch.from_numpy(h.detach().numpy().copy()),
    "array": lambda h: torch.from_numpy(np.asarray(h.detach()).copy()),
    "dlpack": lambda h: torch.from_dlpack(h.detach()),
    "deepcopy": lambda h: outcome(copy.deepcopy, h),
    "deepcopy of detached": lambda h: copy.deepcopy(h.detach()),
    "pickle": lambda h: pickle.loads(pickle.dumps(h.detach())),
    "pickle itself": lambda h: pickle.loads(pickle.dumps(h)),
    "save": saved,
    "data": lambda h: h.data,
    "detach": lambda h: (h.detach(), h.detach().requires_grad),
    "clone": lambda h: h.clone(),
    "graph": graph,
    "is_leaf": lambda h: (h.is_leaf, h.grad_fn is None, h._version),
    "hook": lambda h: outcome(hooked, h),
    "gradient": lambda h: torch.autograd.grad(h.square().sum(), h)[0] if h.requires_grad else None,
    "view": lambda h: h.view(-1),
    "views": lambda h: (h.flatten(1), h.permute(0, 2, 3, 1), h.mT, h.unbind(0)[0], h._base is None),
    "expand": lambda h: h.expand(2, *h.shape),
    "chunk": lambda h: torch.chunk(h, 2, 1),
    "cat": lambda h: torch.cat([h, h], 1),
    "cat in a tuple": lambda h: torch.cat((h, torch.zeros(h.shape)), dim=0),
    "stack": lambda h: torch.stack([h, h]),
    "twice": lambda h: h * h,
    "with itself": lambda h: h + h,
    "with numbers": lambda h: (h + 1, 1 - h, h**2, -h, abs(h), h / 2, 2 / (h.abs() + 1), h % 2),
    "compared": lambda h: (h > 0, h == h, h != 0),
    "einsum": lambda h: torch.einsum("nchw,nchw->nc", h, h),
    "max": lambda h: h.max(1),
    "functional": lambda h: (F.softmax(h, 1), F.pad(h, (1, 1)), F.dropout(h, 0.5, False), F.max_pool2d(h, 2)),
    "like it": lambda h: (torch.zeros_like(h), h.new_ones(2), torch.empty_like(h).shape, torch.ones(()).expand_as(h)),
    "to": lambda h: (h.to(torch.float32), h.double(), h.type(torch.float32), h.type(), h.cpu(), h.to("meta").shape),
    "contiguous": lambda h: (h.contiguous(memory_format=torch.channels_last), h.contiguous()),
    "hash": lambda h: ({h: 1}[h], h in {h}, hash(h) == hash(h)),
    "equal": lambda h: (torch.equal(h, h.clone()), torch.allclose(h, h)),
    "isinstance": lambda h: (isinstance(h, (torch.Tensor, int)), isinstance(h, nn.Parameter)),
    "type": lambda h: (h.sum(), isinstance(h, torch.DoubleTensor)),
    "no_grad": lambda h: torch.no_grad()(lambda: h * 2)(),
    "no_grad flag": lambda h: torch.no_grad()(lambda: (h * 2).requires_grad)(),
    "quantile": lambda h: torch.quantile(h, 0.5),
    "numpy function": lambda h: torch.as_tensor(np.mean(h.detach().numpy())),
    "parameter": lambda h: nn.Parameter(h.detach()).is_leaf,
    "nested": lambda h: torch.nested.nested_tensor([h.detach()[0], h.detach()[1]]).size(0),
}  # fmt: skip


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_read(make, read, grad):
    compare(make, lambda h, net, seen: seen.append(read(h)))


@pytest.mark.parametrize("read", [listed, lambda h: h * h, lambda h: h.detach().sum()], ids=["list", "twice", "detach"])
def test_read_behind_the_chain(make, read, grad):
    """Its chain has run: then it is computed as the code says, and gets its gradient."""

    class Late(make):
        def forward(self, x):
            h = self.first(x)
            out = self.second(h)
            if self.between is not None:
                self.between(h, self)
            return out

    if make is CHAINS["InPlace"]:
        pytest.skip("h has become the output, in place")

    def between(h, net, seen):
        seen.append(read(h))

    compare(Late, between)


CHANGES = {
    "add_": lambda h: h.add_(1),
    "mul_": lambda h: h.mul_(2),
    "relu_": lambda h: h.relu_(),
    "torch.relu_": torch.relu_,
    "F.relu": lambda h: F.relu(h, inplace=True),
    "nn.LeakyReLU": nn.LeakyReLU(0.3, inplace=True),
    "clamp_": lambda h: h.clamp_(-0.5, 0.5),
    "setitem": lambda h: h.__setitem__((0, 1), 3.0),
    "setitem of a mask": lambda h: h.__setitem__(h.detach() > 0, 0.0),
    "out": lambda h: torch.add(h.detach(), 1, out=h) if not h.requires_grad else None,
    "through a view": lambda h: h.view(-1)[3:].mul_(2),
    "through a slice": lambda h: h[:, 1].zero_(),
    "through detach": lambda h: h.detach().mul_(2),
    "data": lambda h: h.data.add_(1),
    "set data": lambda h: setattr(h, "data", h.detach() + 1),
    "under no_grad": lambda h: torch.no_grad()(lambda: h.add_(1))() if not h.requires_grad else None,
    "foreach": lambda h: torch._foreach_mul_([h], 2.0),
    "copy_": lambda h: h.copy_(torch.ones(h.shape)),
    "aten": lambda h: torch.ops.aten.mul_(h, 2.0),
    "aten overload": lambda h: torch.ops.aten.mul_.Scalar(h, 2.0),
    "numpy": lambda h: np.add(h.detach().numpy(), 1, out=h.detach().numpy()),
    "transpose_": lambda h: h.transpose_(2, 3),
    "detach_": lambda h: h.detach_(),
    "requires_grad_": lambda h: h.requires_grad_(),
    "init": nn.init.zeros_ if not torch.is_grad_enabled() else lambda h: None,
}


def operators(h):
    h += 1
    h *= 2
    h /= 3
    h -= 0.5
    return h


@pytest.mark.parametrize("change", [*CHANGES.values(), operators], ids=[*CHANGES, "operators"])
@pytest.mark.parametrize("goes_on", [True, False], ids=["result", "object"])
def test_change_in_place(make, change, goes_on, grad):
    """Whether the code goes on with the object or with what the change returned."""

    def between(h, net, seen):
        result = change(h)
        return result if goes_on and isinstance(result, torch.Tensor) else h

    compare(make, between)


def test_attributes(make, grad):
    """What is written on the tensor stays there."""

    def between(h, net, seen):
        h.tag = "mine"
        seen.append(h.sum())
        seen.append(h.tag)
        seen.append(sorted(vars(h)))

    compare(make, between)


def test_retain_grad(make):
    kept = []

    def between(h, net, seen):
        h.retain_grad()
        kept.append(h)

    compare(make, between)
    ours, theirs = kept
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_hooks_of_tensor_and_graph(make):
    def between(h, net, seen):
        h.register_hook(lambda g: 3 * g)
        h.grad_fn.register_prehook(lambda gs: tuple(2 * g for g in gs))

    compare(make, between)


def test_weak_reference(make, grad):
    kept = []

    def between(h, net, seen):
        reference = weakref.ref(h)
        seen.append(h.sum())
        assert reference() is h
        h.add_(1)
        seen.append(reference().mean())
        kept.append((reference, h))

    compare(make, between)
    for reference, h in kept:
        assert reference() is h
    (_, ours), (_, theirs) = kept
    torch.testing.assert_close(ours, theirs)


def test_weak_keys(make, grad):
    def between(h, net, seen):
        known = WeakIdKeyDictionary()
        known[h] = 1
        seen.append((h * 2).sum())
        assert known[h] == 1

    compare(make, between)


def test_collected(make, grad):
    """Nothing keeps it alive that would not keep an ordinary one."""
    references = []

    def between(h, net, seen):
        references.append(weakref.ref(h))
        return h + 0

    compare(make, between)
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_kept_in_the_module(make, grad):
    """It is a tensor of its own when the forward is over."""
    kept = []
    compare(make, lambda h, net, seen: kept.append([h]))
    (ours,), (theirs,) = kept
    assert type(ours) is torch.Tensor
    torch.testing.assert_close(ours, theirs)
    assert ours.requires_grad == theirs.requires_grad


def test_returned_from_the_root(make, grad):
    class Returned(make):
        def forward(self, x):
            h = self.first(x)
            return self.second(h) if self.between is None else h

    plain = build(Returned)
    net = accelerated(plain)
    for each in (plain, net):
        each.between = True
    ours, theirs = net(images()), plain(images())
    assert type(ours) is torch.Tensor
    torch.testing.assert_close(ours, theirs)
    assert ours.requires_grad == theirs.requires_grad


def test_seen_by_forward_hooks(make, grad):
    """Hooks of parts and of the root, registered before and after `accelerate`."""

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain = make()
            self.first, self.last = nn.Identity(), nn.Identity()
            self.chain.second, second = (lambda h: h), self.chain.second
            self.second = second
            self.seen = None

        def forward(self, x):
            return self.second(self.last(self.chain(self.first(x))))

    torch.manual_seed(0)
    runs = []
    x = images()
    for accelerate in (False, True):
        net = build(Parts)
        seen = []
        if accelerate:
            fastgan.accelerate(net)
            net(x)
        for part in (net.chain, net.last, net):
            part.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out.sum()))
        net.last.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        net.chain.register_forward_hook(lambda module, args, out: out + 1)
        runs.append([net(x), *seen])
        assert_no_mode()
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_backward_hooks_of_a_module(make):
    """torch wraps the layer's output in an autograd.Function."""

    class Parts(make):
        def __init__(self):
            super().__init__()
            self.part = nn.Identity()

        def first(self, x):
            return self.part(super().first(x))

    results = []
    for net in (build(Parts), accelerated(build(Parts))):
        net.part.register_full_backward_hook(lambda module, grad_in, grad_out: (2 * grad_in[0],))
        x = images()
        results.append(outcome(step, net, x))
    ours, theirs = results
    if isinstance(theirs, tuple):
        assert ours[0] is theirs[0], ours
    else:
        assert_same(ours, theirs)


def test_another_thread(make, grad):
    def between(h, net, seen):
        enabled = torch.is_grad_enabled()

        def read():
            with torch.set_grad_enabled(enabled):
                seen.append(h.sum())
                h.mul_(2)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()

    compare(make, between)


def test_grad_mode_changes_between(make, grad):
    def between(h, net, seen):
        with torch.set_grad_enabled(not grad):
            out = net.second(h.clone() if make is CHAINS["InPlace"] else h)
            seen += [out.requires_grad, out.detach()]

    compare(make, between)


def test_no_grad_around_the_second_call(make):
    def forward(self, x):
        h = self.first(x)
        if self.between is None:
            return self.second(h)
        with torch.no_grad():
            out = self.second(h)
        assert not out.requires_grad
        return out + h.sum()

    if make is CHAINS["InPlace"]:
        pytest.skip("in place under no_grad")
    compare_forward(make, forward)


def test_no_grad_around_the_first_call(make):
    def forward(self, x):
        if self.between is None:
            return self.second(self.first(x))
        with torch.no_grad():
            h = self.first(x)
        assert not h.requires_grad
        return self.second(h)

    compare_forward(make, forward)


@pytest.mark.parametrize("around", ["first", "second"])
def test_inference_mode(make, around, grad):
    def forward(self, x):
        inside, outside = contextlib.nullcontext(), contextlib.nullcontext()
        if self.between is not None:
            inside, outside = torch.inference_mode(), contextlib.nullcontext()
        with inside if around == "first" else outside:
            h = self.first(x)
        with inside if around == "second" else outside:
            return self.second(h)

    plain = build(type("Inference", (make,), {"forward": forward}))
    net = accelerated(plain)
    for each in (plain, net):
        each.between = True
    ours, theirs = (outcome(each, images()) for each in (net, plain))
    if isinstance(theirs, tuple):
        assert ours == theirs
    else:
        torch.testing.assert_close(ours, theirs)
        assert (ours.is_inference(), ours.requires_grad) == (theirs.is_inference(), theirs.requires_grad)


@pytest.mark.parametrize("around", ["first", "second"])
def test_autocast_between(make, around, grad):
    def forward(self, x):
        cast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.between is not None)
        with cast if around == "first" else contextlib.nullcontext():
            h = self.first(x)
        with cast if around == "second" else contextlib.nullcontext():
            return self.second(h)

    torch.set_default_dtype(torch.float32)
    plain = build(type("Cast", (make,), {"forward": forward}))
    net = accelerated(plain)
    for each in (plain, net):
        each.between = True
    ours, theirs = (outcome(each, images()) for each in (net, plain))
    if isinstance(theirs, tuple):
        assert ours == theirs
    else:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def compare_forward(make, forward):
    """With a forward of its own: the first one with `between` None, the next with True."""
    plain = build(type("Other", (make,), {"forward": forward}))
    net = accelerated(plain)
    results = []
    for each in (net, plain):
        each.between = True
        results.append(step(each, images()))
        assert_no_mode()
    assert_same(*results)
