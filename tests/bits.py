"""Tensors compared to the bit, and the values worth comparing."""

import math

import torch
from torch import Tensor

_AS_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """The bit patterns, except NaN payloads."""
    if tensor.is_floating_point():
        tensor = torch.where(tensor.isnan(), torch.full_like(tensor, math.nan), tensor)
    return tensor.contiguous().view(_AS_INTEGER[tensor.element_size()])


def assert_same_bits(actual: Tensor, expected: Tensor, x: Tensor | None = None) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert actual.device == expected.device
    different = bits(actual.detach()) != bits(expected.detach())
    if different.any():
        where = different.nonzero()[:5]
        shown = [[None if t is None else t[tuple(i)].item() for t in (x, actual, expected)] for i in where]
        raise AssertionError(f"{int(different.sum())} elements differ: (x, actual, expected) = {shown}")


def all_patterns(dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """All 65,536 bit patterns of a 16-bit dtype."""
    return torch.arange(-(2**15), 2**15, device=device).to(torch.int16).view(dtype)


def special_values(dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Zeros, ties, the neighbors of integers and of bounds, subnormals, the limits of the range, infinities and NaN."""
    info = torch.finfo(dtype)
    whole = 2.0 ** round(-math.log2(info.eps))  # from here on every value is an integer
    magnitudes = [0.0, 0.3, 0.5, 0.7, 1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 3.5, 5.9, 6.0, 100.5, 1e4]
    magnitudes += [whole / 4 + 0.25, whole / 2 - 0.5, whole / 2 + 0.5, whole - 1, whole, whole + 2]
    magnitudes += [info.smallest_normal, info.smallest_normal * info.eps, info.max, info.max / 3, math.inf]
    base = torch.tensor(magnitudes, dtype=torch.float64).to(dtype)
    neighbours = (
        [torch.nextafter(base, torch.full_like(base, to)) for to in (math.inf, -math.inf)]
        if dtype
        in (
            torch.float32,
            torch.float64,
        )
        else []
    )
    positive = torch.cat([base, *neighbours])
    nan = torch.tensor([math.nan], dtype=dtype)
    # Three times over, so that each value passes through vector lanes and through the tail of the loop.
    return torch.cat([positive, -positive, nan]).repeat(3).to(device)


def values(dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """All values of a dtype that are worth testing."""
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        ends = [info.min, info.min + 1, info.max - 1, info.max]
        return torch.tensor([*range(max(-9, info.min), 10), *ends], dtype=dtype, device=device).repeat(3)
    if dtype.itemsize == 2:
        return all_patterns(dtype, device)
    return special_values(dtype, device)
