"""The samples for the tests of blocks, and the oracle's results for them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import block_oracle as oracle
import pytest
import torch
from bits import assert_same_bits
from op_table import FLOAT_FORMATS, FLOATING
from torch import Tensor

import ste

# Without its types, which do not accept an unpacked list of arguments.
fake_quantize_blocks: Callable[..., Any] = ste.fake_quantize_blocks
block_scale: Callable[..., Any] = ste.block_scale
block_zero_point: Callable[..., Any] = ste.block_zero_point
of_class: Any = ste.autograd_ops.fake_quantize_blocks_fn.apply

OTHERS = {
    "e3m4": ste.FloatFormat(3, 4, bias=3, max=15.5, has_infinity=True),
    "e2m1, of small numbers": ste.FloatFormat(2, 1, bias=40, max=2.0**-38),
}
INTEGERS = ["int2", "int4", "int8"]
GRIDS = {**{name: name for name in (*FLOAT_FORMATS, *INTEGERS)}, **{name: str(f) for name, f in OTHERS.items()}}
BLOCKS = [1, 3, 16, 32, 100, None]

EVERY_GRID = pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))
EVERY_DTYPE = pytest.mark.parametrize("dtype", FLOATING, ids=str)

# One of each rule, and a few that differ in the grid: (grid, block, rule, dim).
CONFIGURATIONS: list[tuple[str, int | None, str, int]] = [
    ("e2m1fn", 32, "floor", -1),
    ("e2m1fn", 16, "e4m3fn", -1),
    ("int4", None, "minmax", 0),
    ("e4m3fn", 3, "even", 1),
    ("int4", 7, "absmax", 0),
    ("e5m2", 16, "rceil", -2),
    ("e3m2fn", None, "ceil", 1),
    ("int8", 5, "e4m3fn", -1),
]
EVERY_CONFIGURATION = pytest.mark.parametrize("arguments", CONFIGURATIONS, ids=str)


def rules_of(grid: str) -> list[str]:
    return [rule for rule in oracle.RULES if rule != "minmax" or grid in INTEGERS]


def wide_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def to_numpy(tensor: Tensor, dtype: torch.dtype) -> oracle.Array:
    array: oracle.Array = tensor.detach().to(dtype).cpu().numpy()
    return array


def by_class(
    x: Tensor,
    grid: str,
    block: int | None = None,
    rule: str = "absmax",
    dim: int = -1,
    tensor_scale: Tensor | None = None,
) -> Any:
    """The autograd class, with the defaults that the public function fills in."""
    if rule == "e4m3fn" and tensor_scale is None:
        wide = x.detach().to(wide_dtype(x))
        largest = wide.abs().amax() if x.numel() else wide.new_zeros(())
        tensor_scale = largest / torch.full_like(largest, oracle.grid_of(grid).max * 448)
    return of_class(x, grid, -1 if block is None else block, rule, dim, tensor_scale)


CALLS: dict[str, Callable[..., Any]] = {"function": fake_quantize_blocks, "class": by_class}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


def for_oracle(
    x: Tensor, grid: str, rule: str, tensor_scale: Tensor | float | None
) -> tuple[oracle.Array, oracle.Array | None]:
    """In the dtype of the computation: x, and the scale of the tensor."""
    dtype = wide_dtype(x)
    array = to_numpy(x, dtype)
    if rule != "e4m3fn":
        return array, None
    if tensor_scale is None:
        return array, oracle.default_tensor_scale(array, grid)
    return array, to_numpy(torch.as_tensor(tensor_scale, dtype=dtype), dtype)


def expected(
    x: Tensor,
    grid: str,
    block: int | None = None,
    rule: str = "absmax",
    dim: int = -1,
    tensor_scale: Tensor | float | None = None,
) -> tuple[Tensor, Tensor]:
    """The result, and where the gradient passes to x."""
    array, of_tensor = for_oracle(x, grid, rule, tensor_scale)
    y, is_inside = oracle.fake_quantize_blocks(array, grid, block, rule, dim, of_tensor)
    return torch.from_numpy(y).to(x.device, x.dtype), torch.from_numpy(is_inside).to(x.device)


def expected_scale(
    x: Tensor,
    grid: str,
    block: int | None = None,
    rule: str = "absmax",
    dim: int = -1,
    tensor_scale: Tensor | float | None = None,
) -> Tensor:
    array, of_tensor = for_oracle(x, grid, rule, tensor_scale)
    return torch.from_numpy(oracle.scales(array, grid, block, rule, dim, of_tensor)).to(x.device)


def check(x: Tensor, g: Tensor, grid: str, block: int | None, rule: str, dim: int, *tensor_scale: Any) -> None:
    """Compare values and gradients of both calls, and the scales."""
    arguments = (grid, block, rule, dim, *tensor_scale)
    print(x.dtype, tuple(x.shape), x.stride(), arguments)  # shown when a test fails
    y, is_inside = expected(x, *arguments)
    to_x = torch.where(is_inside, g, 0)
    assert_same_bits(fake_quantize_blocks(x, *arguments), y, x)
    for call in CALLS.values():
        leaf = x.detach().requires_grad_()
        found = call(leaf, *arguments)
        assert_same_bits(found, y, x)
        assert_same_bits(torch.autograd.grad(found, leaf, g)[0], to_x, x)
    assert_same_bits(block_scale(x, *arguments), expected_scale(x, *arguments))
    if rule == "minmax":
        z = oracle.zero_points(to_numpy(x, wide_dtype(x)), grid, block, dim)
        assert_same_bits(block_zero_point(x, grid, block, rule, dim), torch.from_numpy(z).to(x.device))


# The exponents of the magnitudes of a few lines: some scales are at the limits of their range.
EXPONENTS = {
    torch.float16: [-14, -7, -3, 0, 3, 7, 12],
    torch.bfloat16: [-126, -60, -7, 0, 7, 60, 120],
    torch.float32: [-126, -60, -7, 0, 7, 60, 120],
    torch.float64: [-1000, -130, -7, 0, 126, 135, 1000],
}


def lines(dtype: torch.dtype, length: int = 130) -> Tensor:
    """Lines of numbers of many magnitudes, the first of which have special blocks: shape [15, length]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(15, length, generator=generator, dtype=torch.float64)
    info = torch.finfo(dtype)
    x[0, 5] = math.nan
    x[1, length // 3] = math.inf
    x[2, length // 2] = -math.inf
    x[3, 16:64] = 0
    x[4] = -0.0
    x[5] = torch.randint(-9, 10, (length,), generator=generator) * info.smallest_normal * info.eps
    x[6] = torch.linspace(-1, 1, length, dtype=torch.float64) * info.max
    x[7] = torch.randint(-40, 41, (length,), generator=generator) / 4  # ties, if the scale is a power of two
    x[8:] *= 2.0 ** torch.tensor(EXPONENTS[dtype], dtype=torch.float64)[:, None]
    return x.to(dtype)


def normal(shape: Sequence[int], dtype: torch.dtype, seed: int, device: str) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def sample(dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """x, with numbers beyond the grid under some rules, and a gradient."""
    x = lines(dtype, 37).reshape(3, 5, 37).to(device)
    return x, normal(x.shape, dtype, 1, device)


# If x holds NaN and infinities, the scale of the tensor is given.
def with_tensor_scale(arguments: tuple[Any, ...], device: str) -> tuple[Any, ...]:
    return (*arguments, torch.tensor(0.02, device=device)) if arguments[2] == "e4m3fn" else arguments


def swapped(t: Tensor, first: int, second: int) -> Tensor:
    """The same numbers, with these two dimensions swapped in memory."""
    return t.transpose(first, second).contiguous().transpose(first, second) if t.dim() > 1 else t
