"""Gradient penalties with torch.compile, torch.func and DistributedDataParallel."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from penalized import assert_same, critic_of, gradients, images, plain, relativistic
from torch.func import functional_call

from fastgan.penalty import R1, R2, penalized_loss, r1_penalty


def gradients_after(call):
    critic = critic_of()
    call(critic).backward()
    return {name.replace("_orig_mod.", ""): g for name, g in gradients([critic]).items()}


def reference():
    return gradients_after(lambda critic: plain(critic, images(), images(seed=1), relativistic, [R1(), R2()])[0])


def penalized(critic, adversarial=relativistic, engine="auto"):
    return penalized_loss(critic, images(), images(seed=1), adversarial, [R1(), R2()], engine=engine).loss


def compiled_in_place(critic, compile_options):
    critic[0].compile(**compile_options)
    return penalized(critic)


def compiled_inside(critic, compile_options):
    critic[2] = torch.compile(critic[2], **compile_options)
    return penalized(critic)


def compiled_in_a_lambda(critic, compile_options):
    end = torch.compile(critic[2:], **compile_options)
    return penalized(lambda x: end(critic[:2](x)))


COMPILED = {
    "critic": lambda critic, options: penalized(torch.compile(critic, **options)),
    "critic, double backward": lambda critic, options: penalized(
        torch.compile(critic, **options), engine="double_backward"
    ),
    "function": lambda critic, options: penalized(torch.compile(lambda x: critic(x), **options)),
    "inside a lambda": compiled_in_a_lambda,
    "in place": compiled_in_place,
    "a submodule": compiled_inside,
    "the adversarial loss": lambda critic, options: penalized(critic, torch.compile(relativistic, **options)),
}


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("route", COMPILED)
def test_compiled(route, fullgraph):
    torch._dynamo.reset()
    options = {"backend": "aot_eager", "fullgraph": fullgraph}
    assert_same(gradients_after(lambda critic: COMPILED[route](critic, options)), reference())


def test_compiled_around():
    torch._dynamo.reset()
    around = torch.compile(lambda critic: 2 * penalized(critic) / 2, backend="aot_eager")
    assert_same(gradients_after(around), reference())
    around = torch.compile(lambda critic: 2 * r1_penalty(critic, images()), backend="aot_eager")
    expected = gradients_after(lambda critic: 2 * plain(critic, images(), penalties=[R1()])[0])
    assert_same(gradients_after(around), expected)
    torch._dynamo.reset()
    critic, real = critic_of(), images()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="skip"):
        torch.compile(lambda x: r1_penalty(critic, x), backend="aot_eager", fullgraph=True)(real)


def test_functional():
    critic = critic_of()
    params = {name: p.detach().requires_grad_() for name, p in critic.named_parameters()}

    def of(params):
        return penalized(lambda x: functional_call(critic, params, (x,)))

    grads = torch.autograd.grad(of(params), list(params.values()))
    assert_same({f"0.{name}": g for name, g in zip(params, grads, strict=True)}, reference())
    for transform in (torch.func.grad(of), lambda params: torch.func.vjp(of, params)):
        with pytest.raises(RuntimeError, match="requires_grad_"):
            transform(params)
    with pytest.raises(RuntimeError, match="requires_grad_"):
        torch.func.jvp(of, (params,), (params,))


def test_distributed_data_parallel(tmp_path):
    script = Path(__file__).parents[1] / "penalty_steps.py"
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path / "store"], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
