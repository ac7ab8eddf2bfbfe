"""fake_quantize_blocks, block_scale and block_zero_point match the oracle to the bit."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import block_oracle as oracle
import pytest
import torch
from bits import all_patterns, assert_same_bits
from block_cases import check_at_random
from block_samples import (
    BLOCKS,
    CALLS,
    CONFIGURATIONS,
    EVERY_CALL,
    EVERY_CONFIGURATION,
    EVERY_DTYPE,
    EVERY_GRID,
    GRIDS,
    OTHERS,
    block_scale,
    block_zero_point,
    check,
    expected,
    expected_scale,
    fake_quantize_blocks,
    lines,
    normal,
    rules_of,
    to_numpy,
)
from op_table import FLOAT_FORMATS, FLOATING
from torch import Tensor

import ste


@EVERY_DTYPE
@EVERY_GRID
def test_values_and_gradients(grid: str, dtype: torch.dtype, device: str) -> None:
    x = lines(dtype).reshape(3, 5, -1).to(device)
    g = normal(x.shape, dtype, 1, device)
    # One for each line, including 0, infinity, and values for which scales are infinite or 0.
    of_lines = torch.tensor([1.0] * 3 + [0.0] * 2 + [1.0, 2.0**9, 2.0**-9, math.inf, 0.0, 2.0, 0.3, 1e-7, 1e4, 7.0])
    of_lines = of_lines.reshape(3, 5, 1).to(device, dtype)
    for rule, dim, block in itertools.product(rules_of(grid), (-1, 1, 0), BLOCKS):
        moved, g_moved = x.movedim(-1, dim).contiguous(), g.movedim(-1, dim).contiguous()
        if rule != "e4m3fn":
            check(moved, g_moved, grid, block, rule, dim)
            continue
        check(moved, g_moved, grid, block, rule, dim, of_lines.movedim(-1, dim))
        if block in (16, None):
            finite = moved.nan_to_num(0, 0, 0)
            check(finite, g_moved, grid, block, rule, dim, None)
            check(finite, g_moved, grid, block, rule, dim, torch.tensor(0.01, device=device))
            check(moved, g_moved, grid, block, rule, dim, None)


def around_powers(dtype: torch.dtype, grid: str) -> Tensor:
    """Powers of two, numbers that round up to one, and the largest number times one: with neighbors within 2 ulp."""
    integer, exponents, bits = (
        (torch.int32, range(-149, 129), 23) if dtype == torch.float32 else (torch.int64, range(-1074, 1025), 52)
    )
    numbers = oracle.grid_of(grid)
    fractions = [1.0, 2 - 2.0 ** -(numbers.mantissa_bits + 1), math.frexp(numbers.max)[0] * 2]
    patterns: set[int] = set()
    for exponent in exponents:
        least = 2 - (1 << 8 if dtype == torch.float32 else 1 << 11) // 2  # the normal numbers
        for fraction in fractions:
            significand = int(fraction * 2**bits)
            if exponent >= least:
                patterns.add(((exponent - least) << bits) + significand)
            else:
                patterns.add(significand >> (least - exponent))
    infinity = int(torch.tensor(math.inf, dtype=dtype).view(integer))
    near = sorted({min(max(p + ulps, 0), infinity) for p in patterns for ulps in range(-2, 3)})
    positive = torch.tensor(near, dtype=integer).view(dtype)
    return torch.cat([positive, -positive])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_scales_of_single_elements(dtype: torch.dtype, device: str) -> None:
    tensor_scales = [torch.tensor(value, device=device) for value in (1.0, 0.37)]
    for grid in GRIDS.values():
        x = (all_patterns(dtype) if dtype == torch.bfloat16 else around_powers(dtype, grid)).to(device)
        for rule in rules_of(grid):
            for tensor_scale in tensor_scales if rule == "e4m3fn" else (None,):
                arguments = (grid, 1, rule, 0, tensor_scale)
                print(arguments)
                assert_same_bits(block_scale(x, *arguments), expected_scale(x, *arguments), x)
                assert_same_bits(fake_quantize_blocks(x, *arguments), expected(x, *arguments)[0], x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_blocks_of_every_size_of_numbers(dtype: torch.dtype, device: str) -> None:
    """Whole blocks, many neighbors among which have scales of the same magnitude."""
    info = torch.finfo(dtype)
    exponents = torch.arange(math.frexp(info.smallest_normal * info.eps)[1], math.frexp(info.max)[1])
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(len(exponents), 2, 1024, generator=generator, dtype=torch.float64) - 1
    x[:, 1] = (16 * x[:, 1]).round() / 16  # and ties
    x = (x * 2.0 ** exponents[:, None, None]).flatten(0, 1).to(device, dtype)
    for grid in (*FLOAT_FORMATS, *map(str, OTHERS.values())):
        for rule in ("floor", "rceil"):
            print(grid, rule)
            assert_same_bits(fake_quantize_blocks(x, grid, 32, rule), expected(x, grid, 32, rule)[0], x)


# Not a NaN that bfloat16 can represent, but one that would round up to a number.
PAYLOADS = (0x7FFFFFFF, -1, 0x7F800001)


@EVERY_DTYPE
@pytest.mark.parametrize("dim", [0, -1])
def test_every_nan_stays_one(dim: int, dtype: torch.dtype, device: str) -> None:
    """A NaN with any bits, from any source: the maximum of some numbers is a NaN with all bits set."""
    x = normal((64, 64), dtype, 0, device)
    x[40, 40] = math.nan
    plain = x.nan_to_num(1)
    for grid, rule in [("int8", "minmax"), *(("e2m1fn", rule) for rule in rules_of("e2m1fn"))]:
        for block in (1, 16, 32, 40):
            assert_same_bits(fake_quantize_blocks(x, grid, block, rule, dim), expected(x, grid, block, rule, dim)[0], x)
    for payload in PAYLOADS:
        tensor_scale = torch.tensor(payload, dtype=torch.int32, device=device).view(torch.float32)
        for block in (1, 16, 32, 40):
            assert fake_quantize_blocks(plain, "e2m1fn", block, "e4m3fn", dim, tensor_scale).isnan().all()


@pytest.mark.parametrize("part", range(6))
def test_at_random(part: int, device: str) -> None:
    """`make sweep` tries 100,000."""
    for case in range(part, 300, 6):
        check_at_random(case, device)


DENSE: list[Callable[[Tensor], Tensor]] = [
    lambda t: t,
    lambda t: t.contiguous(memory_format=torch.channels_last),
    lambda t: t.mT.contiguous().mT,
    lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
]


@EVERY_CONFIGURATION
def test_the_result_lies_as_x_does(arguments: Any, device: str) -> None:
    values = normal((2, 35, 4, 6), torch.float32, 0, device)
    for call, change in itertools.product(CALLS.values(), DENSE):
        x = change(values)
        before = x.clone()
        y = call(x, *arguments)
        assert not y.requires_grad
        assert_same_bits(y, expected(values, *arguments)[0])
        assert_same_bits(x, before)
        leaf = x.detach().requires_grad_()
        with_gradient = call(leaf, *arguments)
        assert with_gradient.requires_grad
        assert_same_bits(with_gradient, y)
        assert_same_bits(leaf, before)
        assert y.stride() == with_gradient.stride() == x.stride()
        assert y.data_ptr() != x.data_ptr()


@EVERY_CALL
def test_empty(call: Callable[..., Any], device: str) -> None:
    tensor_scale = torch.tensor(0.5, device=device)
    shapes = [((0,), 0), ((0, 3), 0), ((3, 0), 0), ((3, 0), -1), ((2, 0, 3), 1), ((2, 0, 3), 2)]
    for dtype, (shape, dim) in itertools.product(FLOATING, shapes):
        for grid, block, rule, _ in CONFIGURATIONS:
            leaf = torch.empty(shape, dtype=dtype, device=device, requires_grad=True)
            arguments: Any = (grid, block, rule, dim, *([tensor_scale] if rule == "e4m3fn" else []))
            y = call(leaf, *arguments)
            assert (y.shape, y.dtype) == (leaf.shape, dtype)
            assert torch.autograd.grad(y.sum(), leaf)[0].shape == leaf.shape
            if block is not None or leaf.shape[dim] > 0:
                assert_same_bits(block_scale(leaf, *arguments), expected_scale(leaf, *arguments))
    assert call(torch.empty(0, 16, device=device), "e2m1fn", 16, "e4m3fn").shape == (0, 16)


@EVERY_DTYPE
def test_without_dimensions(dtype: torch.dtype, device: str) -> None:
    g = torch.tensor(-3.0, dtype=dtype, device=device)
    for value in (1.7, -0.3, 0.0, -0.0, math.inf, math.nan):
        x = torch.tensor(value, dtype=dtype, device=device)
        for (grid, _, rule, _), block, dim in itertools.product(CONFIGURATIONS, (None, 1, 32), (0, -1)):
            check(x, g, grid, block, rule, dim, *([torch.tensor(0.1, device=device)] if rule == "e4m3fn" else []))


def test_a_scale_of_the_tensor_may_be_a_number(device: str) -> None:
    x = normal((3, 40), torch.float32, 0, device)
    for dtype in FLOATING:
        of_dtype = x.to(dtype)
        y = expected(of_dtype, "e2m1fn", 16, "e4m3fn", -1, 0.003)[0]
        assert_same_bits(fake_quantize_blocks(of_dtype, "e2m1fn", 16, "e4m3fn", tensor_scale=0.003), y, of_dtype)
        scale = expected_scale(of_dtype, "e2m1fn", 16, "e4m3fn", -1, 0.003)
        assert_same_bits(block_scale(of_dtype, "e2m1fn", 16, "e4m3fn", tensor_scale=0.003), scale)


def test_a_grid_is_its_name(device: str) -> None:
    x = normal((3, 40), torch.float32, 0, device)
    for name in FLOAT_FORMATS:
        y, scale = fake_quantize_blocks(x, name, 16), block_scale(x, name, 16)
        format = ste.FloatFormat.named(name)
        bits = 1 + format.exponent_bits + format.mantissa_bits
        for same in (format, f"float{bits}_{name}"):
            assert_same_bits(fake_quantize_blocks(x, same, 16), y)
            assert_same_bits(block_scale(x, same, 16), scale)
    for format in OTHERS.values():
        assert_same_bits(fake_quantize_blocks(x, format, 16), expected(x, str(format), 16)[0])
    for bits in range(2, 9):
        for rule in ("absmax", "minmax"):
            assert_same_bits(fake_quantize_blocks(x, f"int{bits}", 16, rule), expected(x, f"int{bits}", 16, rule)[0])


def test_the_defaults(device: str) -> None:
    x = normal((3, 40), torch.float32, 0, device)
    assert_same_bits(fake_quantize_blocks(x, "int8"), expected(x, "int8", None, "absmax", -1)[0])
    assert_same_bits(block_scale(x, "int8"), expected_scale(x, "int8", None, "absmax", -1))
    z = oracle.zero_points(to_numpy(x, torch.float32), "int8", None)
    assert_same_bits(block_zero_point(x, "int8"), torch.from_numpy(z).to(device))


def test_recipes(device: str) -> None:
    assert {name: tuple(recipe) for name, recipe in ste.BLOCK_RECIPES.items()} == {
        "mxfp8_e4m3": ("e4m3fn", 32, "floor"),
        "mxfp8_e5m2": ("e5m2", 32, "floor"),
        "mxfp6_e3m2": ("e3m2fn", 32, "floor"),
        "mxfp6_e2m3": ("e2m3fn", 32, "floor"),
        "mxfp4": ("e2m1fn", 32, "floor"),
        "nvfp4": ("e2m1fn", 16, "e4m3fn"),
        "int4_32": ("int4", 32, "absmax"),
        "int4_128": ("int4", 128, "absmax"),
        "int8_token": ("int8", None, "absmax"),
    }
    assert ste.BLOCK_RECIPES["nvfp4"] == ste.BlockRecipe(grid="e2m1fn", block=16, rule="e4m3fn")
    x = normal((5, 300), torch.float32, 0, device)
    g = normal((5, 300), torch.float32, 1, device)
    for recipe in ste.BLOCK_RECIPES.values():
        given = torch.tensor(0.001, device=device)
        for tensor_scale in (None, given) if recipe.rule == "e4m3fn" else (None,):
            check(x, g, *recipe, -1, tensor_scale)
            y = fake_quantize_blocks(x, *recipe, tensor_scale=tensor_scale)
            s = block_scale(x, *recipe, tensor_scale=tensor_scale)
            assert s.shape == (5, 1 if recipe.block is None else math.ceil(300 / recipe.block))
            s = s.repeat_interleave(recipe.block or 300, -1)[:, :300]
            if recipe.grid.startswith("int"):
                largest = 2 ** (int(recipe.grid[3:]) - 1) - 1
                q = (x / s).round().clamp(-largest, largest) + 0
            else:
                q = ste.fake_quantize_float(x / s, None, recipe.grid)
            assert_same_bits(y, q * s, x)
