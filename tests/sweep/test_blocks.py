"""fake_quantize_blocks: 100,000 random cases, and every configuration compiled."""

from typing import Any

import pytest
import torch
from bits import assert_same_bits
from block_cases import Layer, assert_compiled_is_eager, check_at_random
from block_samples import EVERY_CONFIGURATION, expected, sample
from op_table import FLOATING

import ste

CASES = 100_000
PARTS = 100


@pytest.mark.parametrize("part", range(PARTS))
def test_at_random(part: int, device: str) -> None:
    for case in range(part, CASES, PARTS):
        check_at_random(case, device)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@EVERY_CONFIGURATION
def test_compiled(arguments: Any, dtype: torch.dtype, dynamic: bool, device: str) -> None:
    assert_compiled_is_eager(arguments, dtype, device, dynamic=dynamic)


def test_compiled_without_a_scale_of_the_tensor(device: str) -> None:
    x, g = (t.nan_to_num(0, 0, 0) for t in sample(torch.float32, device))
    compiled = torch.compile(Layer(*ste.BLOCK_RECIPES["nvfp4"]), fullgraph=True)
    leaf = x.clone().requires_grad_()
    y, is_inside = expected(x, *ste.BLOCK_RECIPES["nvfp4"])
    found = compiled(leaf)
    assert_same_bits(found, y, x)
    assert_same_bits(torch.autograd.grad(found, leaf, g)[0], torch.where(is_inside, g, 0), x)
