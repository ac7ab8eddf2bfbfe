"""fake_quantize_float compared with the casts of ml_dtypes, on every 16-bit pattern."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bits import all_patterns, assert_same_bits, special_values
from ml_casts import cast
from op_table import FLOAT_FORMATS
from torch import Tensor

import ste

fake_quantize_float: Callable[..., Any] = ste.fake_quantize_float
of_class: Any = ste.autograd_ops.fake_quantize_float_fn.apply
EVERY_FORMAT = pytest.mark.parametrize("format", FLOAT_FORMATS)


def expected(x: Tensor, format: str) -> Tensor:
    return torch.from_numpy(cast(x.float().numpy(), format)).to(x.dtype)


@EVERY_FORMAT
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_all_patterns_beside_ml_dtypes(format: str, dtype: torch.dtype) -> None:
    x = all_patterns(dtype)
    for function in (fake_quantize_float, of_class):
        assert_same_bits(function(x, 1.0, format), expected(x, format), x)


@EVERY_FORMAT
def test_float32_beside_ml_dtypes(format: str) -> None:
    """Every exponent, every tie and its neighbors, and random numbers."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (1 << 18,), generator=generator, dtype=torch.int64).to(torch.int32)
    ties = expected(all_patterns(torch.bfloat16), format).float().unique()
    ties = (ties[1:] + ties[:-1]) / 2
    beside = [torch.nextafter(ties, torch.full_like(ties, to)) for to in (-math.inf, math.inf)]
    x = torch.cat([bits.view(torch.float32), ties, *beside, special_values(torch.float32)])
    for function in (fake_quantize_float, of_class):
        assert_same_bits(function(x, 1.0, format), expected(x, format), x)
