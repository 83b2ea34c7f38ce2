"""A deferred tensor where Python's calls are not seen: autograd.Function, C++ ops, checkpoints, compiled parts."""

import copy

import pytest
import torch
import torch.nn.functional as F
from deferrals import CHAINS, InPlace, Norm, Up, accelerated, assert_no_mode, assert_same, build, compare, images, step
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastgan
from fastgan import functional

chains = pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)


class Cube(torch.autograd.Function):
    """x³; saves its input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * dy


class CubeOfSetup(torch.autograd.Function):
    """The same in the other style."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        return Cube.backward(ctx, dy)


class Itself(torch.autograd.Function):
    """Returns its input; twice the gradient."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


class ViewOfIt(Itself):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)


class Doubled(torch.autograd.Function):
    """In place."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


class Numpy(torch.autograd.Function):
    """Through numpy and through memory."""

    @staticmethod
    def forward(ctx, x):
        assert x.data_ptr()
        return torch.from_numpy(x.detach().numpy() * 2)

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


# Nothing is wrong then, but said.
HELD = "was changed in place where C++ holds it"
bound_at_import = Cube.apply


@torch.jit.script
def scripted(x: torch.Tensor) -> torch.Tensor:
    return x * x.sigmoid()


@torch.jit.script
def scripted_in_place(x: torch.Tensor) -> torch.Tensor:
    x.mul_(2)
    return x


def _op(name, schema, function):
    library.define(f"{name}{schema}")
    library.impl(name, function, "CompositeImplicitAutograd")
    return getattr(torch.ops.fastgan_test_fusion, name)


library = torch.library.Library("fastgan_test_fusion", "DEF")
composite = _op("composite", "(Tensor x) -> Tensor", lambda x: x * x.tanh())
in_place = _op("in_place", "(Tensor(a!) x) -> ()", lambda x: x.mul_(2) and None)


@torch.library.custom_op("fastgan_test_fusion_custom::cube", mutates_args=())
def custom(x: torch.Tensor) -> torch.Tensor:
    return x**3


custom.register_autograd(
    lambda ctx, dy: 3 * ctx.saved_tensors[0] ** 2 * dy,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@torch.library.custom_op("fastgan_test_fusion_custom::double_", mutates_args=["x"])
def custom_in_place(x: torch.Tensor) -> None:
    x.mul_(2)


INTO = {
    "Function.apply": lambda h: Cube.apply(h),
    "bound at import": lambda h: bound_at_import(h),
    "setup_context": lambda h: CubeOfSetup.apply(h),
    "returns its input": lambda h: Itself.apply(h),
    "returns a view": lambda h: ViewOfIt.apply(h),
    "numpy and memory": lambda h: Numpy.apply(h),
    "script": scripted,
    "torch.ops": lambda h: composite(h),
    "torch.ops overload": lambda h: composite.default(h),
    "custom_op": lambda h: custom(h),
    "our op": lambda h: functional.bias_act(h, act="swish"),
    "our norm": lambda h: functional.norm_act(h, None, None, norm="instance", act="relu"),
    "our resampling": lambda h: functional.conv_downsample2d(h, torch.ones(h.shape[1], h.shape[1], 1, 1)),
    "reentrant checkpoint": lambda h: checkpoint(torch.sin, h, use_reentrant=True),
    "checkpoint": lambda h: checkpoint(torch.sin, h, use_reentrant=False),
    "func.vmap": lambda h: torch.vmap(torch.sin)(h),
    "func.grad": lambda h: torch.func.grad(lambda t: t.square().sum())(h),
    "func.vjp": lambda h: torch.func.vjp(torch.sin, h)[1](torch.ones(h.shape))[0],
    "func.jvp": lambda h: torch.func.jvp(torch.sin, (h,), (torch.ones(h.shape),))[1],
}  # fmt: skip


@chains
@pytest.mark.parametrize("into", INTO.values(), ids=INTO)
@pytest.mark.parametrize("goes_on", [True, False], ids=["result", "object"])
def test_into(make, into, goes_on, grad):
    """What came out goes on, or the tensor itself does and what came out is used elsewhere."""

    def between(h, net, seen):
        out = into(h)
        if goes_on:
            return out
        seen.append(out)
        return None

    compare(make, between, steps=2, refusal=HELD)


@chains
@pytest.mark.parametrize("into", INTO.values(), ids=INTO)
def test_into_and_then_changed(make, into, grad):
    """In Python, where C++ has had it before."""

    def between(h, net, seen):
        seen.append(into(h).sum())
        h.mul_(2)
        seen.append(h.view(-1)[1])
        h[:, 0].add_(1)
        seen.append(h.sum())

    compare(make, between, refusal=HELD)


CHANGED_INSIDE = {
    "script": scripted_in_place,
    "torch.ops": lambda h: in_place(h),
    "custom_op": lambda h: custom_in_place(h),
    "aten overload": lambda h: torch.ops.aten.mul_.Tensor(h, torch.tensor(2.0)),
    "torch._C": lambda h: torch._C._VariableFunctions.relu_(h),
}


@chains
@pytest.mark.parametrize("into", CHANGED_INSIDE.values(), ids=CHANGED_INSIDE)
def test_changed_inside(make, into, grad):
    def between(h, net, seen):
        into(h)
        seen.append(h.sum())

    compare(make, between)


@chains
def test_changed_inside_a_function(make, grad):
    """autograd.Function cannot find the tensor that its forward changed: it says so."""
    compare(make, lambda h, net, seen: Doubled.apply(h), refusal="marked as dirty")


def _made_by_function(first, x):
    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return first(x)

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return 3 * torch.autograd.grad(first(x), x, dy)[0]

    return First.apply(x)


def _made_with_gradients_inside(first, x):
    return _made_by_function(torch.enable_grad()(first), x)


def _made_by_op(first, x):
    """The kernel calls the chain's beginning; its gradient is of another function."""
    holder["first"] = first
    return made(x)


@torch.library.custom_op("fastgan_test_fusion_custom::made", mutates_args=())
def made(x: torch.Tensor) -> torch.Tensor:
    return holder["first"](x)


made.register_autograd(
    lambda ctx, dy: torch.full(ctx.shape, 3.0) * dy.sum(),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "shape", inputs[0].shape),
)
holder = {}


@chains
@pytest.mark.parametrize("by", [_made_by_function, _made_with_gradients_inside, _made_by_op])
def test_returned_from_a_function(make, by, grad):
    """The gradient of the result is the function's, not that of the call inside."""

    def forward(self, x):
        return self.second(by(self.first, x) if self.between else self.first(x))

    if by is _made_with_gradients_inside and not grad:
        pytest.skip("plain torch leaves a graph in the output of such a function")
    plain = build(type("Made", (make,), {"forward": forward})).eval()
    net = accelerated(plain)
    results = []
    for each in (net, plain):
        each.between = True
        results.append([step(each, images(seed=i)) for i in range(2)])
        assert_no_mode()
    assert_same(*results)


@chains
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_checkpointed_chain(make, reentrant):
    """The whole of it, beside a chain of the same root that is not checkpointed."""

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.weight = make(), make(), nn.Parameter(torch.ones(1, 4, 1, 1))

        def forward(self, x):
            h = F.leaky_relu(x + self.weight.view(-1)[:4].view(1, 4, 1, 1), 0.2) * 2
            return checkpoint(self.one, h, use_reentrant=reentrant).sum() + self.two(h).square().sum()

    results = []
    for accelerate in (False, True):
        net = build(Root)
        if accelerate:
            fastgan.accelerate(net)
        results.append([step(net, images(seed=i)) for i in range(3)])
        assert_no_mode()
    assert_same(*results)


@chains
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("where", ["first", "second", "both"])
def test_checkpoint_in_a_chain(make, reentrant, where):
    def forward(self, x):
        run = checkpoint if self.between is not None else (lambda function, x, use_reentrant: function(x))
        if where == "both":
            return run(lambda x: self.second(self.first(x)), x, use_reentrant=reentrant)
        one = run if where == "first" else (lambda function, x, use_reentrant: function(x))
        two = run if where == "second" else (lambda function, x, use_reentrant: function(x))
        return two(self.second, one(self.first, x, use_reentrant=reentrant), use_reentrant=reentrant)

    if make is InPlace and where == "second":
        pytest.skip("torch does not recompute what its input was changed by")
    plain = build(type("Checkpointed", (make,), {"forward": forward}))
    results = []
    for net in (accelerated(plain), plain):
        net.between = True
        results.append([step(net, images(seed=i)) for i in range(2)])
        assert_no_mode()
    assert_same(*results)


@pytest.mark.parametrize("make", [make for make in CHAINS.values() if make is not InPlace])
def test_double_backward_where_cpp_has_it(make):
    def between(h, net, seen):
        seen.append(bound_at_import(h))

    plain = build(make)
    results = []
    for net in (accelerated(plain), plain):
        seen = []
        net.between = lambda h, net, seen=seen: between(h, net, seen)
        x = images().requires_grad_()
        out = net(x)
        (gx,) = torch.autograd.grad(out.square().sum() + seen[0].sum(), x, create_graph=True)
        gx.square().sum().backward()
        results.append([out.detach(), gx.detach(), x.grad, {n: p.grad for n, p in net.named_parameters()}])
    assert_same(*results)


@pytest.mark.parametrize("make", [make for make in CHAINS.values() if make is not InPlace])
@pytest.mark.parametrize("through", ["itself", "a view"])
def test_changed_behind_a_checkpoint(make, through):
    """What is recomputed from a changed input has wrong gradients: torch says so, and so must we."""

    def between(h, net, seen):
        seen.append(checkpoint(torch.sin, h, use_reentrant=False))
        (h if through == "itself" else h.view(-1)).mul_(2)

    plain = build(make)
    for net in (plain, accelerated(plain)):
        seen = []
        net.between = lambda h, net, seen=seen: between(h, net, seen)
        net(images().requires_grad_())
        with pytest.raises(RuntimeError, match=r"in-?place"):
            seen[0].sum().backward()


@chains
def test_functorch_inside_the_forward(make):
    """Chains inside of what is transformed, in a forward whose scope is open."""

    def forward(self, x):
        one = self.second(self.first(x))
        if self.between is None:
            return one
        torch.set_grad_enabled(True)
        gradient = torch.func.grad(lambda x: self.second(self.first(x)).square().sum())(x.detach())
        return one.sum() + gradient.sum()

    plain = build(type("Transforming", (make,), {"forward": forward})).eval()
    net = accelerated(plain)
    results = []
    for each in (net, plain):
        each.between = True
        results.append([step(each, images(seed=i)) for i in range(2)])
        assert_no_mode()
    assert_same(*results)


@chains
def test_vmap_inside_the_forward(make):
    def forward(self, x):
        one = self.second(self.first(x))
        if self.between is None:
            return one
        return one.sum() + torch.vmap(lambda x: self.second(self.first(x)))(torch.stack([x, 2 * x])).sum()

    plain = build(type("Mapping", (make,), {"forward": forward})).eval()
    net = accelerated(plain)
    results = []
    for each in (net, plain):
        each.between = True
        results.append(step(each, images()))
        assert_no_mode()
    assert_same(*results)


def test_a_copy_of_the_wrapper():
    """C++ has it, so it stays a wrapper: what copies it copies a tensor."""

    def between(h, net, seen):
        with torch.no_grad():
            bound_at_import(h)
            seen += [copy.deepcopy(h.detach()), h.tolist(), h.detach().numpy().sum(), repr(h.detach()), h.clone()]

    for make in (Up, Norm):
        compare(make, between)
