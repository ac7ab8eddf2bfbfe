"""The grids and blocks, compared with those of gfloat and torchao."""

from typing import Any

import gfloat
import numpy as np
import pytest
import torch
from bits import all_patterns, assert_same_bits
from gfloat import formats
from torch import Tensor
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor

import ste

# Those of our named formats that it has.
OF_GFLOAT: dict[str, Any] = {
    "e4m3fn": formats.format_info_ocp_e4m3,
    "e5m2": formats.format_info_ocp_e5m2,
    "e3m2fn": formats.format_info_ocp_e3m2,
    "e2m3fn": formats.format_info_ocp_e2m3,
    "e2m1fn": formats.format_info_ocp_e2m1,
}
OF_TORCHAO = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e2m1fn": torch.float4_e2m1fn_x2}


@pytest.mark.parametrize("format", OF_GFLOAT)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gfloat(format: str, dtype: torch.dtype) -> None:
    x = all_patterns(dtype)
    x = x[~x.isnan()]  # which 6-bit and 4-bit formats do not have
    expected = gfloat.round_ndarray(OF_GFLOAT[format], x.double().numpy(), sat=True)
    assert_same_bits(ste.fake_quantize_float(x, None, format), torch.from_numpy(np.asarray(expected)).to(dtype), x)


def of_many_sizes(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(512, 1, generator=generator).exp()
    return (torch.randn(512, 512, generator=generator) * sizes).to(dtype)


@pytest.mark.parametrize("format", OF_TORCHAO)
@pytest.mark.parametrize("mode", list(ScaleCalculationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torchao(format: str, mode: ScaleCalculationMode, dtype: torch.dtype) -> None:
    x = of_many_sizes(dtype)
    theirs = MXTensor.to_mx(x, OF_TORCHAO[format], 32, mode).dequantize()
    assert_same_bits(ste.fake_quantize_blocks(x, format, 32, mode.value), theirs, x)


def test_rceil_of_torchao_is_by_a_logarithm() -> None:
    """As the migration guide says: just above a power of two times the largest number, their scale is half of ours."""
    b = torch.nextafter(torch.tensor(448.0 * 256), torch.tensor(torch.inf)).repeat(1, 32)
    theirs = MXTensor.to_mx(b, torch.float8_e4m3fn, 32, ScaleCalculationMode.RCEIL).scale.float()
    assert theirs.item() == 256
    assert ste.block_scale(b, "e4m3fn", 32, "rceil").item() == 512


def test_nvfp4_of_torchao() -> None:
    """They multiply by the reciprocal of the scale, and have no scale below the smallest normal number of e4m3fn."""
    x = of_many_sizes(torch.float32)
    t = x.abs().max() / (448 * 6)
    theirs = NVFP4Tensor.to_nvfp4(x, per_tensor_scale=t).dequantize()
    ours = ste.fake_quantize_blocks(x, *ste.BLOCK_RECIPES["nvfp4"], tensor_scale=t)
    scale = ste.block_scale(x, *ste.BLOCK_RECIPES["nvfp4"], tensor_scale=t)
    has_normal_scale = (scale >= t * 2.0**-6).repeat_interleave(16, -1)
    assert has_normal_scale.float().mean() > 0.99
    differs = (theirs - ours).abs() > 1e-6 * ours.abs()
    assert (differs & has_normal_scale).float().mean() < 1e-4
