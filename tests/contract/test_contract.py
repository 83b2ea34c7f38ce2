"""Every op on every backend, device, dtype and layout, to every order of derivatives, in every way that torch calls it.

An op is one row of contract/table.py; what only one op has is in the file of its name.
"""

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from samples import DTYPES, SEED, assert_same_bits_from_any_number_of_threads
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from contract.call import Call, drawn
from contract.compare import Expected
from contract.draw import LAYOUTS
from contract.table import TABLE
from fastgan import functional
from fastgan.ops.op import decompositions

CALLS = [(op, call) for op, row in TABLE.items() for call in row.calls]
SMOOTH = [(op, call) for op, call in CALLS if call not in TABLE[op].constants_move]
IN_FULL = [(op, call) for op, row in TABLE.items() for call in (row.in_full or row.calls)]


def each(calls):
    return pytest.mark.parametrize(("op", "call"), calls, ids=[f"{op}: {call}".rstrip(": ") for op, call in calls])


each_call, each_in_full = each(CALLS), each(IN_FULL)
halves_and_doubles = pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
around = pytest.mark.around


def test_every_op_is_in_the_table():
    """An op has a file in reference/; what is used in one of another name is in its row."""
    import fastgan.reference

    stems = {path.stem for path in Path(fastgan.reference.__file__).parent.glob("*.py")} - {"__init__"}
    without_row = {"activations", "resampled_conv"}  # formulas of others
    assert {stem for stem in stems - without_row if not {stem, f"batch_{stem}"} & {*TABLE}} == set()


# --- what is computed ---


@lru_cache(maxsize=64)
def expected(op, call, shape_number, dtype, layout, seed=0):
    """Of one call; the backends share it."""
    row = TABLE[op]
    shape = row.image if shape_number is None else row.shapes[shape_number]
    return Expected(*drawn(op, call, shape, dtype, seed, layout=layout))


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", TABLE)
def test_as_exact_as_torch(target, op, dtype):
    """Of every shape in both orders; the calls take turns."""
    found, calls = {}, list(TABLE[op].calls)
    for number, shape in enumerate(TABLE[op].shapes):
        for last, layout in enumerate(("contiguous", "channels_last")):
            call = calls[(2 * number + last + SEED) % len(calls)]
            problems = expected(op, call, number, dtype, layout, number).problems(target)
            found |= {(call, str(shape), layout): problems} if problems else {}
    assert not found


UNCHANGED = {
    "bias_act": functional.bias_act,
    "scale_shift_act": lambda x: functional.scale_shift_act(x, None, None, "linear"),
    "pixel_shuffle_act": lambda x: functional.pixel_shuffle_act(x, None, 1, "linear"),
    "upfirdn2d": lambda x: functional.upfirdn2d(x, None),
}


@pytest.mark.parametrize("op", UNCHANGED)
def test_a_call_that_changes_nothing_gives_a_new_tensor(target, op):
    for wanted in (False, True):
        x = torch.randn(2, 4, 3, 3, device=target).requires_grad_(wanted)
        y = UNCHANGED[op](x)
        assert torch.equal(x, y)
        assert not _share_memory(x, y)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(dx, dy)
    assert not _share_memory(dx, dy)


def _share_memory(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@halves_and_doubles
@pytest.mark.parametrize("layout", LAYOUTS)
@each_call
def test_layouts(target, op, call, layout, dtype):
    assert not expected(op, call, None, dtype, layout).problems(target)


@around
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced", "expanded"])
@pytest.mark.parametrize("ones", [False, True], ids=["", "a dimension of size 1"])
@each_in_full
def test_results_are_stored_as_fake_ones(target, op, call, layout, ones):
    """The stride of a dimension of size 1, which a view may change, decides nothing."""
    for shape in _with_ones(TABLE[op].image) if ones else [TABLE[op].image]:
        of = Call(target, op, call, shape, layout=layout)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = [mode.from_tensor(t.detach()).requires_grad_() for t in of.tensors()]
            fake = of(*fakes)
            fake = [fake, *torch.autograd.grad(fake, fakes, torch.empty_like(fake))]
        tensors = of.tensors()
        y = of(*tensors)
        for got, like in zip([y, *torch.autograd.grad(y, tensors, torch.ones_like(y))], fake, strict=True):
            assert (got.shape, got.dtype) == (like.shape, like.dtype)
            strides = [[t.stride(d) for d in range(t.ndim) if t.shape[d] > 1] for t in (got, like)]
            assert strides[0] == strides[1]


def _with_ones(shape):
    """The shape, which may be one of a call's sizes, with each of its dimensions at 1 in turn that can be."""
    if isinstance(shape[0], tuple):
        return [(one, *shape[1:]) for one in _with_ones(shape[0])]
    return [(*shape[:i], 1, *shape[i + 1 :]) for i in range(2, len(shape))]


@around
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@each_in_full
def test_layouts_are_kept(target, op, call, layout):
    """A result of images, and the gradient of images, are stored as the images are."""
    of = Call(target, op, call, layout=layout)
    tensors = of.tensors()
    y = of(*tensors)
    gradients = torch.autograd.grad(y, tensors, torch.ones_like(y))
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for t in (y, *gradients):
        if t.ndim == 4 and 0 not in t.stride():
            assert t.is_contiguous(memory_format=formats[layout])


# --- derivatives ---


@each(SMOOTH)
def test_gradcheck(target, op, call):
    of = Call(target, op, call, TABLE[op].small)
    assert torch.autograd.gradcheck(of, of.tensors())
    assert torch.autograd.gradgradcheck(of, of.tensors())


@around
@each_call
def test_third_order(target, op, call):
    of = Call(target, op, call, TABLE[op].small)

    def third(function):
        tensors = of.tensors()
        value = function(*tensors).sin().sum()
        for _ in range(3):
            gradients = torch.autograd.grad(value, tensors, create_graph=True)
            value = sum(g.square().sum() for g in gradients)
        return gradients

    def plain(*tensors):
        y = of.case.plain(lambda t, kept=False: t, **dict(zip(of.names, tensors, strict=True)), **of.constants)
        return y[0] if isinstance(y, tuple) else y

    for got, want in zip(third(of), third(plain), strict=True):
        # Roundings of float64 grow with every order, by what the values are; a wrong formula is off by all of them.
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6 * float(want.detach().abs().max()))


@around
@each_in_full
def test_a_gradient_is_there_only_where_it_is_asked_for(target, op, call):
    of = Call(target, op, call)
    for wanted in range(len(of.names)):
        tensors = [t.requires_grad_(i == wanted) for i, t in enumerate(of.tensors())]
        of(*tensors).sum().backward()
        assert [t.grad is not None for t in tensors] == [i == wanted for i in range(len(tensors))]
    with torch.no_grad():
        assert not of(*of.tensors()).requires_grad
    assert not of(*(t.detach() for t in of.tensors())).requires_grad


@each_in_full
def test_same_bits_from_any_number_of_threads(op, call):
    row = TABLE[op]
    for layout in ("contiguous", "channels_last"):
        of = Call("cpu", op, call, row.large, torch.float32, layout=layout)
        asked = [i for i, name in enumerate(of.names) if name not in row.summed_by_torch]

        def run(of=of, asked=asked):
            tensors = of.tensors()
            y = of(*tensors)
            return [y.detach(), *torch.autograd.grad(y, [tensors[i] for i in asked], torch.ones_like(y))]

        assert_same_bits_from_any_number_of_threads(run)


@each_in_full
def test_same_bits_from_run_to_run(target, op, call):
    of = Call(target, op, call, TABLE[op].shapes[0], torch.float32)
    results = []
    for _ in range(2):
        tensors = of.tensors()
        y = of(*tensors)
        results.append([y.detach(), *torch.autograd.grad(y, tensors, torch.ones_like(y))])
    assert all(map(torch.equal, *results))


# --- the ways torch calls an op ---


class Recorder(TorchDispatchMode):
    """The calls of our registered ops."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastgan":
            self.calls.setdefault(func, args)
        return func(*args, **(kwargs or {}))


@around
@pytest.mark.parametrize(
    ("layout", "dtype"), [("contiguous", torch.float64), ("channels_last", torch.bfloat16)], ids=str
)
@each_in_full
def test_opcheck(target, op, call, layout, dtype):
    """Of every registered op that a call and its derivatives use; its plain form gives the same."""
    of = Call(target, op, call, dtype=dtype, layout=layout)
    with Recorder() as recorder:
        tensors = of.tensors()
        y = of(*tensors)
        first = torch.autograd.grad(y, tensors, torch.ones_like(y).requires_grad_(), create_graph=True)
        if any(g.requires_grad for g in first):
            torch.autograd.grad(sum(g.double().square().sum() for g in first), tensors, allow_unused=True)
    assert recorder.calls
    for func, arguments in recorder.calls.items():
        tests = ["test_schema", "test_faketensor"]
        registered = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "Autograd")
        if registered:
            tests += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
        leaves = tuple(_leaves(arguments, registered))
        torch.library.opcheck(func, leaves, test_utils=tests)
        torch.testing.assert_close(decompositions()[func](*leaves), func(*leaves))


def _leaves(arguments, wanted):
    for a in arguments:
        if isinstance(a, torch.Tensor):
            yield a.detach().requires_grad_(wanted)
        else:
            yield list(_leaves(a, wanted)) if isinstance(a, (list, tuple)) and len(a) and hasattr(a[0], "detach") else a


@around
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@each_in_full
def test_compile(target, op, call, compiler):
    of = Call(target, op, call)

    def run(*tensors):
        return of(*tensors)

    tensors, results = of.tensors(), []
    for function in (torch.compile(run, fullgraph=True, backend=compiler), run):
        y = function(*tensors)
        results.append([y, *torch.autograd.grad(y, tensors, y.detach().cos())])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)
        assert got.stride() == want.stride()


@around
@each_in_full
def test_export_and_decompositions(target, op, call):
    of = Call(target, op, call)

    class Module(torch.nn.Module):
        def forward(self, tensors):
            return of(*tensors)

    tensors = [t.detach() for t in of.tensors()]
    program = torch.export.export(Module(), (tensors,))
    assert [node for node in program.graph.nodes if str(node.target).startswith("fastgan.")]
    torch.testing.assert_close(program.module()(tensors), of(*tensors))
    plain = program.run_decompositions(decompositions())
    assert not [node for node in plain.graph.nodes if "fastgan" in str(node.target)]
    torch.testing.assert_close(plain.module()(tensors), of(*tensors))


@around
@each_in_full
def test_torch_func(target, op, call):
    of = Call(target, op, call, TABLE[op].small)
    tensors = of.tensors()
    want = of.derivatives(of, tensors)[1:]
    plain = [t.detach() for t in tensors]
    everything = tuple(range(len(plain)))
    got = [*torch.func.grad(of.curve, everything)(*plain), *torch.func.grad(of.squares, everything)(*plain)]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@around
@each_in_full
def test_vmap(target, op, call):
    """Of every input, of one of them, along another dimension than the first; of values and of gradients."""
    of = Call(target, op, call, TABLE[op].small)
    several = [[t.detach() for t in Call(target, op, call, TABLE[op].small, seed=n).tensors()] for n in range(3)]
    count = len(of.names)
    stacked = [torch.stack(each) for each in zip(*several, strict=True)]
    for batched in {tuple([True] * count), (True, *[False] * (count - 1)), (*[False] * (count - 1), True)}:
        alone = [[each[i] if batched[i] else several[0][i] for i in range(count)] for each in several]
        for last in (False, True):
            dims = tuple((-1 if last else 0) if b else None for b in batched)
            given = [
                several[0][i] if d is None else stacked[i].movedim(0, -1) if last else stacked[i]
                for i, d in enumerate(dims)
            ]
            y = torch.func.vmap(of, in_dims=dims)(*given)
            torch.testing.assert_close(y, torch.stack([of(*each) for each in alone]))
            gradients = torch.func.vmap(torch.func.grad(of.curve, tuple(range(count))), in_dims=dims)(*given)
            for n, each in enumerate(alone):
                leaves = [t.clone().requires_grad_() for t in each]
                want = torch.autograd.grad(of.curve(*leaves), leaves)
                torch.testing.assert_close([g[n] for g in gradients], list(want))


@each_in_full
def test_many_gradients_at_once(op, call):
    """torch.func takes them together; autograd's own way is refused with a reason."""
    of = Call("cpu", op, call, TABLE[op].small)
    first, *others = (t.detach() for t in of.tensors())

    def run(x):
        return of(x, *others)

    expected = torch.autograd.functional.jacobian(run, first)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(torch.func.jacrev(run)(first), expected)
    try:
        at_once = torch.autograd.functional.jacobian(run, first, vectorize=True)
    except NotImplementedError as error:  # where a kernel computes the gradient
        assert error.args[0].count("a tensor has no memory of its own, as with is_grads_batched=True")  # noqa: PT017
    else:
        torch.testing.assert_close(at_once, expected)


@around
@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
@each_in_full
def test_forward_mode_raises(target, op, call, compiled):
    of = Call(target, op, call)
    tensors = tuple(t.detach() for t in of.tensors())

    def jvp(*tensors):
        return torch.func.jvp(of, tensors, tensors)

    with pytest.raises(NotImplementedError, match="forward-mode"):
        (torch.compile(jvp, backend="aot_eager") if compiled else jvp)(*tensors)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        of(*(torch.autograd.forward_ad.make_dual(t, t) for t in tensors))


@around
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_in_full
def test_autocast_changes_nothing(target, op, call, dtype):
    of = Call(target, op, call, dtype=dtype)
    tensors, results = of.tensors(), []
    for enabled in (True, False):
        with torch.autocast(target.type, torch.bfloat16, enabled):
            y = of(*tensors)
            results.append([y, *torch.autograd.grad(y, tensors, torch.ones_like(y))])
    assert all(map(torch.equal, *results))
