"""fake_quantize_float beside the casts of ml_dtypes, on all 2^32 patterns of float32."""

import pytest
import torch
from bits import assert_same_bits
from test_ml_dtypes import EVERY_FORMAT, cast, fake_quantize_float

PARTS = 64


@EVERY_FORMAT
@pytest.mark.parametrize("part", range(PARTS))
def test_all_patterns(format: str, part: int) -> None:
    size = 2**32 // PARTS
    for begin in range(part * size - 2**31, (part + 1) * size - 2**31, 2**20):
        x = torch.arange(begin, begin + 2**20).to(torch.int32).view(torch.float32)
        assert_same_bits(fake_quantize_float(x, 1.0, format), cast(x, format), x)
