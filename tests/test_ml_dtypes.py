"""fake_quantize_float beside the casts of ml_dtypes, on every pattern of 16 bits."""

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from bits import all_patterns, assert_same_bits, special_values
from op_table import FLOAT_FORMATS
from torch import Tensor

import ste

fake_quantize_float: Callable[..., Any] = ste.fake_quantize_float
of_class: Any = ste.autograd_ops.fake_quantize_float_fn.apply
EVERY_FORMAT = pytest.mark.parametrize("format", FLOAT_FORMATS)


def cast(x: Tensor, name: str) -> Tensor:
    """By ml_dtypes, clamped before; NaN stays in the formats that have none."""
    kind = getattr(ml_dtypes, next(n for n in dir(ml_dtypes) if n.split("_")[-1] == name))
    largest = FLOAT_FORMATS[name][2]
    wide = x.float()
    result = torch.from_numpy(wide.nan_to_num(0).clamp(-largest, largest).numpy().astype(kind).astype(np.float32))
    result = torch.where(wide.isnan(), wide, result)
    # fnuz has no -0.
    return torch.where(result == 0, torch.copysign(result, wide), result).to(x.dtype)


@EVERY_FORMAT
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_all_patterns_beside_ml_dtypes(format: str, dtype: torch.dtype) -> None:
    x = all_patterns(dtype)
    for function in (fake_quantize_float, of_class):
        assert_same_bits(function(x, 1.0, format), cast(x, format), x)


@EVERY_FORMAT
def test_float32_beside_ml_dtypes(format: str) -> None:
    """Every exponent, every tie and its neighbours, and numbers at random."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (1 << 18,), generator=generator, dtype=torch.int64).to(torch.int32)
    ties = cast(all_patterns(torch.bfloat16), format).float().unique()
    ties = (ties[1:] + ties[:-1]) / 2
    beside = [torch.nextafter(ties, torch.full_like(ties, to)) for to in (-math.inf, math.inf)]
    x = torch.cat([bits.view(torch.float32), ties, *beside, special_values(torch.float32)])
    for function in (fake_quantize_float, of_class):
        assert_same_bits(function(x, 1.0, format), cast(x, format), x)
