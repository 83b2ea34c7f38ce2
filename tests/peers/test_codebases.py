"""Codebases as they are published, patched and accelerated: what they compute, learn and keep is what it was untouched.

The programs are those that `fastgan bench run --suite codebases` times: each codebase's own networks, losses and
penalties of both orders, in sizes for a test. On a CPU these run by the plain torch that a codebase brings for it.
"""

import pytest
import torch
from torch.utils import cpp_extension

import fastgan
from fastgan.bench import programs
from fastgan.bench.programs import CODEBASES
from fastgan.compat import patching
from fastgan.fusion.report import PLAIN

SIZES = {
    "biggan": {"width": 4, "batch": 3, "classes": 3},
    "mimicry": {"width": 4, "batch": 3},
    "r3gan": {"widths": [16, 8, 8], "cardinality": 2, "batch": 3},
    "stylegan2-ada": {"size": 16, "batch": 2, "base": 128, "most": 16, "w": 16},
    "stylegan3": {"size": 16, "batch": 2, "base": 128, "most": 16, "w": 16},
    "rosinality": {"size": 8, "batch": 2},
    "basicsr": {"size": 16, "batch": 2, "width": 16, "blocks": 1},
    "lightweight-gan": {"size": 32, "batch": 2, "most": 16},
}
# What else a codebase needs, of which its program takes no part in what is compared.
NEEDS = {"lightweight-gan": ("einops", "kornia", "PIL")}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    """What programs compute in."""
    return request.param


@pytest.fixture
def build(peer, dtype, monkeypatch):
    """Makes a codebase's program, or skips the test."""
    for name in ("load", "load_inline"):
        monkeypatch.setattr(cpp_extension, name, lambda *_, **__: pytest.fail("something is compiled"))

    def made(name, **options):
        folder = peer(name)
        for module in NEEDS.get(name, ()):
            pytest.importorskip(module, reason=f"{name} needs {module}")
        if dtype == torch.float64 and not CODEBASES[name].doubles:
            pytest.skip(f"{name} computes in float32 whatever it is given")
        return programs.program(name, folder, dtype, **SIZES[name], **options)

    return made


def three_rounds(program, starts=()):
    """All steps three times, by plain gradient descent: what each returns, its gradients and the state after it.

    Also the states in which they start; those of another program, if given. So rounding does not add up over steps: a
    weight that rounds otherwise changes a later step's gradients by up to a hundredth. And Adam's first steps are the
    gradients' signs, which make values of rounding.
    """
    seen, states = [], []
    with program.patched():
        for step, name in enumerate(3 * list(program.steps)):
            if starts:
                program.restore(starts[step])
            states.append(program.state())
            updated, _ = program.steps[name]
            seen.append([t.clone() for t in program.run(name)])
            if updated is not None:
                size = torch.stack([p.grad.norm() for p in updated.parameters() if p.grad is not None]).norm()
                with torch.no_grad():
                    for parameter in updated.parameters():
                        if parameter.grad is not None:
                            parameter -= 0.1 * parameter.grad / size
            seen += [[t.to(torch.float64) for t in state.values()] for state in program.state()]
    return seen, states


def assert_same_rounds(subject, untouched, dtype):
    """Step by step, from the same states."""
    expected, states = three_rounds(untouched)
    assert_same(three_rounds(subject, states)[0], expected, dtype)


def assert_same(ours, theirs, dtype):
    """Tensors of a step or a state, next to the largest number in all of them: some gradients are only rounding."""
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-5}[dtype]
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        scale = max(float(t.abs().max()) for t in their if t.numel())
        assert 0 < scale < float("inf")
        torch.testing.assert_close(our, their, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", [name for name in CODEBASES if CODEBASES[name].family])
def test_patched(name, build, dtype):
    untouched, subject = build(name), build(name, patched=True)
    assert_same_rounds(subject, untouched, dtype)
    assert [list(state) for state in subject.state()] == [list(state) for state in untouched.state()]
    assert not patching._patched


@pytest.mark.parametrize("name", CODEBASES)
def test_accelerated(name, build, dtype):
    untouched, subject = build(name), build(name)
    report = fastgan.accelerate(*subject.networks.values())
    assert_same_rounds(subject, untouched, dtype)
    assert [list(state) for state in subject.state()] == [list(state) for state in untouched.state()]
    rows = [row for network in report.to_dict()["networks"] for row in network["rows"]]
    assert any(row["runs"] != PLAIN for row in rows)


def test_r3gan_by_penalized_loss(build, dtype):
    untouched = build("r3gan")
    subject = build("r3gan", patched=True, penalized=True)
    assert_same_rounds(subject, untouched, dtype)
