"""A thousand random calls of every op, beside plain torch."""

import traceback

import pytest
import torch
from samples import SHIFT

from contract.compare import Expected
from contract.draw import Draw
from contract.table import RANDOM
from fastgan.check import DTYPES

CASES, CHUNK = 1000, 50


def failures(seed: int) -> list[str]:
    """What is wrong with the case of this seed, with what is needed to see it again."""
    d = Draw(seed)
    maker, dtype = RANDOM[seed % len(RANDOM)], d.one_of(DTYPES)
    case = maker(d, dtype)
    layouts = {name: f"{laid.name} {laid.base.dtype}" for name, laid in case.inputs.items()}
    found = Expected(case, d).problems(grad_mode=d.one_of([torch.no_grad, torch.inference_mode]))
    return [f"seed {seed}, {case.name}: {text}\n    {case.facts} {layouts}" for text in found]


@pytest.fixture
def one_thread():
    """These calls are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("first", range(0, CASES, CHUNK))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_random_cases(first):
    found = []
    for seed in range(first, first + CHUNK):
        try:
            found += failures(seed + SHIFT)
        except Exception:  # noqa: PERF203  of the op or of the formula: the seed says which
            found.append(f"seed {seed + SHIFT}: {traceback.format_exc()}")
    assert not found, "\n".join(found)
    assert torch.is_grad_enabled()
