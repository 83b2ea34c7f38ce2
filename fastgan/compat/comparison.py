"""Whether a function of a codebase means what ours does: both are called with a few small tensors, on the CPU.

Compared are the results and their first and second derivatives, in float64. A call of the codebase's function is
guarded: the state of the random numbers is kept, nothing is compiled, and `.cuda()` leaves a tensor where it is. Where
a function may have another branch for a GPU it is called again with tensors that say they are on one; what its plugin
would do is then done by ours. What a codebase's function prints or writes is not undone.
"""

import ast
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastgan import backends
from fastgan.compat import plugins

Function = Callable[..., Any]
_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class MismatchError(Exception):
    """What a codebase has under a name is not the function that ours could replace."""


class Call(NamedTuple):
    """Arguments of a call that tells one codebase's rules from another's, and what of its result is compared.

    Tensors that require a gradient, and modules' parameters, are differentiated. Arguments that may be missing in some
    version are given by name: a function that has no such argument is not called with it.
    """

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    then: Callable[[Any], Any] = lambda result: result


class Ours(NamedTuple):
    """What can take the place of a codebase's function.

    Args:
        variants: ours by the rule that sets it apart, empty for the usual one. The first that agrees is taken.
        calls: what has to agree; or a function that makes them for the module or class that has the function.
        on_gpu: whether the codebases' functions have a branch of their own for a GPU.
    """

    variants: Mapping[str, Function]
    calls: Sequence[Call] | Callable[[Any], Sequence[Call]]
    on_gpu: bool = False


class Choice(NamedTuple):
    """Ours, which agrees with theirs, and how that is known."""

    function: Function
    reason: str


def choose(owner: Any, theirs: Function, ours: Ours, entries: plugins.Entries) -> Choice:
    """The variant of ours that agrees with a function of a module or class in every call.

    Args:
        owner: the module or class.
        theirs: its function.
        ours: what may take its place.
        entries: what the plugins of the codebase do, see `plugins.emulated`.

    Raises:
        MismatchError: none agrees, or it cannot be known; the message says which.
    """
    candidates = {rule: fitted(variant, theirs) for rule, variant in ours.variants.items()}
    with guarded(), plugins.emulated(theirs, entries):
        calls = _calls(owner, theirs, ours.calls)
        on_cpu = _Seen(theirs, calls, mode=_OnCPU(gpu=False))
        on_gpu = _Seen(theirs, calls, mode=_OnCPU(gpu=True)) if ours.on_gpu else on_cpu
        if on_cpu.error and on_gpu.error:
            raise MismatchError(f"unknown: it cannot be called on the CPU: {on_cpu.error}")
        if on_gpu.error and reads_device(theirs):
            raise MismatchError(f"unknown: its branch for a GPU cannot be called: {on_gpu.error}")
        seen = cache(lambda rule: _Seen(candidates[rule], calls))
        rules = [
            next((rule for rule in candidates if _agree(place, seen(rule))), None)
            for place in (on_cpu, on_gpu)
            if not place.error
        ]
    if None in rules:
        raise MismatchError("it computes something else than ours")
    function = candidates[rules[-1]]
    if rules[0] != rules[-1]:
        function = _by_device(candidates[rules[0]], function)
    if on_cpu.mode.moved:
        function = _moving(theirs, function)
    said = [*filter(None, dict.fromkeys(rules))] + ["its gradients fail"] * on_gpu.fails
    return Choice(function, "compared by a call" + f": {'; '.join(said)}" * bool(said))


def _by_device(on_cpu: Function, on_gpu: Function) -> Function:
    def call(*args: Any, **kwargs: Any) -> Any:
        return (on_gpu if _is_on_gpu(*args, *kwargs.values()) else on_cpu)(*args, **kwargs)

    return call


def _moving(theirs: Function, ours: Function) -> Function:
    """Theirs takes tensors to the GPU first: so it does with those of a CPU, where there is a GPU."""

    def call(*args: Any, **kwargs: Any) -> Any:
        stays = not torch.cuda.is_available() or _is_on_gpu(*args, *kwargs.values())
        return (ours if stays else theirs)(*args, **kwargs)

    return call


def _is_on_gpu(*values: Any) -> bool:
    return any(value.is_cuda for value in values if isinstance(value, Tensor))


# --- arguments ---


def fitted(ours: Function, theirs: Function) -> Function:
    """Ours with the arguments of theirs: their names, order and defaults.

    A value for an argument that ours does not have goes to theirs, unless it is the default.

    Raises:
        MismatchError: theirs lacks an argument that ours requires.
    """
    own, other = parameters(ours), parameters(theirs)
    names = _names(own, other)
    if missing := [p.name for p in own.values() if p.default is p.empty and p.name not in names.values()]:
        raise MismatchError(f"its arguments are ({', '.join(other)}): it has no {missing[0]!r}")
    same = (
        mine.name == yours.name and (yours.default is yours.empty or _is(yours.default, mine.default))
        for mine, yours in zip(own.values(), other.values(), strict=False)
    )
    if len(other) <= len(own) and all(same):
        return ours
    signature = inspect.Signature(list(other.values()))
    # What is left out: what a call gives for such an argument unless it gives anything.
    nothing = {p.name: {p.VAR_POSITIONAL: (), p.VAR_KEYWORD: {}}.get(p.kind, p.default) for p in other.values()}

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if all(name in names or _is(given[name], nothing[name]) for name in given):
            return ours(**{names[name]: value for name, value in given.items() if name in names})
        return theirs(*args, **kwargs)

    return call


def _names(own: Mapping[str, inspect.Parameter], other: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """Ours by theirs: the same, or, where no default is given, what has its place and another name."""
    names = {name: name for name in other if name in own}
    for mine, yours in zip(own.values(), other.values(), strict=False):
        if mine.name not in other and yours.name not in own and mine.default is mine.empty is yours.default:
            names[yours.name] = mine.name
    return names


def _is(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and not isinstance(value, Tensor) and value == default)


def parameters(function: Function) -> dict[str, inspect.Parameter]:
    """A function's arguments by name; of a decorator's wrapper those of what it wraps.

    Raises:
        MismatchError: they cannot be known.
    """
    try:
        found = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise MismatchError(f"unknown: its arguments cannot be read: {error}") from error
    if any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found.values()) or not found:
        return found
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    inner = [f for f in cells if inspect.isfunction(f) and f.__name__ == function.__name__]
    if len(inner) != 1:
        raise MismatchError("unknown: its arguments cannot be read")
    return parameters(inner[0])


def _calls(owner: Any, theirs: Function, calls: Sequence[Call] | Callable[[Any], Sequence[Call]]) -> list[Call]:
    """Those whose arguments theirs has."""
    if callable(calls):
        try:
            calls = calls(owner)
        except Exception as error:  # whatever a class of another does with these arguments
            raise MismatchError(f"unknown: {_brief(error)}") from error
    known = parameters(theirs)
    required = [name for name, p in known.items() if p.default is p.empty and p.kind not in _MANY]
    fit = [c for c in calls if set(required[len(c.args) :]) <= set(c.kwargs) <= set(known)]
    if not fit:
        raise MismatchError(f"its arguments are ({', '.join(known)})")
    return fit


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]


# --- calls ---


@contextmanager
def guarded() -> Iterator[None]:
    """A context for calls that are to leave no trace: random numbers, gradients, autocast, devices, compilers."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.amp.autocast_mode.autocast(device, enabled=False))
        stack.enter_context(backends.backend("reference"))
        stack.enter_context(plugins.refused())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        # On a busy machine the threads of small tensors wait for each other, a hundred times as long as one takes.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        yield


class _Seen:
    """What a function does: the values of every call, None where it raised; or the error, if that says nothing."""

    def __init__(self, function: Function, calls: Sequence[Call], mode: Any = None):
        self.values: list[list[Tensor] | None] = []
        self.error = ""
        self.fails = False  # its gradients do
        self.mode = mode
        with mode or nullcontext():
            for call in calls:
                self.values.append(self._attempt(function, call))
                if self.error:
                    break

    def _attempt(self, function: Function, call: Call) -> list[Tensor] | None:
        try:
            return self._differentiated(function, call)
        except (Exception, SystemExit) as error:  # whatever the code of another does with these arguments
            # Some forks do not take all arguments. That says nothing where a GPU or a plugin is missing.
            if not self.values or isinstance(error, plugins.RefusedError) or "cuda" in str(error).lower():
                self.error = _brief(error)
            return None

    def _differentiated(self, function: Function, call: Call) -> list[Tensor]:
        """Results of a call, and the derivatives of their squares, up to the second where there is one."""
        args, kwargs = _fresh(call.args), dict(zip(call.kwargs, _fresh(call.kwargs.values()), strict=True))
        given = (*args, *kwargs.values())
        leaves = [a for a in given if isinstance(a, Tensor) and a.requires_grad]
        leaves += [p for a in given if isinstance(a, nn.Module) for p in a.parameters()]
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed GPUs too
        result = call.then(function(*args, **kwargs))
        results = [t for t in (result if isinstance(result, (list, tuple)) else [result]) if isinstance(t, Tensor)]
        seen, differentiable = list(results), [t for t in results if t.requires_grad]
        if not differentiable:  # theirs may be detached: all its gradients are zero
            return [t.detach() for t in (*seen, *map(torch.zeros_like, leaves))]
        for order in (1, 2) if leaves else ():
            squares = sum(t.square().sum() for t in differentiable)
            try:
                gradients = torch.autograd.grad(
                    squares, leaves, create_graph=order == 1, allow_unused=True, materialize_grads=True
                )
            except plugins.RefusedError:
                raise
            except Exception:  # theirs may have no second derivative, or, with this torch, not even a first
                self.fails |= order == 1
                break
            seen += gradients
            differentiable = gradients
        return [t.detach() for t in seen]


class _OnCPU(TorchFunctionMode):
    """Nothing leaves the CPU; tensors may say that they are on a GPU."""

    def __init__(self, gpu: bool):
        super().__init__()
        self.gpu, self.moved = gpu, False

    def __torch_function__(self, function: Function, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function is Tensor.cuda:
            self.moved = True
            return args[0]
        if self.gpu:
            attribute = getattr(function, "__self__", None)
            if attribute is Tensor.device:
                return torch.device("cuda", 0)
            if attribute in (Tensor.is_cuda, Tensor.is_cpu):
                return attribute is Tensor.is_cuda
        kwargs = {name: self._here(value) for name, value in (kwargs or {}).items()}
        return function(*map(self._here, args), **kwargs)

    def _here(self, value: Any) -> Any:
        if isinstance(value, (str, torch.device)) and str(value).partition(":")[0] == "cuda":
            self.moved |= not self.gpu
            return "cpu"
        return value


def _fresh(values: Any) -> list[Any]:
    return [
        v.detach().clone().requires_grad_(v.requires_grad)
        if isinstance(v, Tensor)
        else deepcopy(v)
        if isinstance(v, nn.Module)
        else v
        for v in values
    ]


def _agree(theirs: _Seen, ours: _Seen) -> bool:
    return not ours.error and all(map(_same, theirs.values, ours.values))


def _same(theirs: list[Tensor] | None, ours: list[Tensor] | None) -> bool:
    """Equal to rounding, next to the largest value; ours may have more derivatives, and take more arguments."""
    if theirs is None:
        return True
    if ours is None or len(ours) < len(theirs):
        return False
    largest = max((float(t.abs().max()) for t in theirs if t.numel()), default=0.0)
    return all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.allclose(a, b, rtol=0, atol=1024 * torch.finfo(a.dtype).eps * largest)
        for a, b in zip(theirs, ours[: len(theirs)], strict=True)
    )


# --- source ---


def reads_device(function: Function) -> bool:
    """Whether a function's source asks for a tensor's device; it counts as doing so where it cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return True
    asked = {"device", "is_cuda", "is_cpu", "cuda"}
    return any(isinstance(node, ast.Attribute) and node.attr in asked for node in ast.walk(tree))
