"""A few of the random calls, of which `tools/fuzz.py` makes many."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from random_calls import Input, check

import ste

pytestmark = pytest.mark.skipif(ste.backend().name != "native", reason="one backend has nothing to agree with")
PARTS = 4
EACH = 150


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("part", range(PARTS))
def test_at_random(part: int) -> None:
    for number in range(part * EACH, (part + 1) * EACH):
        case = Input(number)
        print(number, case)  # shown when a test fails
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own warnings about layouts that it calls a prototype
            check(case)
