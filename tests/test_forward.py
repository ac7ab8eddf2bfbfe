"""Forward values match the contract's reference bit for bit."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bits import assert_same_bits, values
from op_table import BOUNDS, CLAMP, DISTINCT_OPS, FLOATING, INTEGER, INTEGER_OPS, OPS, Op
from torch import Tensor

import ste

EVERY_OP = pytest.mark.parametrize("op", OPS, ids=str)


@EVERY_OP
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_every_value_of_floating_dtypes(op: Op, dtype: torch.dtype, device: str) -> None:
    x = values(dtype, device)
    assert_same_bits(op(x), op.expected(x), x)


@pytest.mark.parametrize(
    ("op", "dtype"),
    [
        pytest.param(op, dtype, id=f"{op}-{dtype}")
        for op in INTEGER_OPS
        for dtype in INTEGER
        if dtype.is_signed or not (op.name == "binary_sign_ste" and op.arguments)  # an error: test_errors
    ],
)
def test_integers_keep_their_dtype(op: Op, dtype: torch.dtype, device: str) -> None:
    x = values(dtype, device)
    arguments = op.arguments_for(x)
    # float64 does not hold all int64 values; x86's long double, with 64 bits of mantissa, does.
    wide = [np.array(a.tolist() if isinstance(a, Tensor) else int(a), np.longdouble) for a in (x, *arguments)]
    y = op(x)
    assert y.dtype == dtype
    assert y.tolist() == [int(value) for value in op.reference(*wide)]


@EVERY_OP
@pytest.mark.parametrize("size", [0, 1, 7, 63, 1000003])
def test_sizes(op: Op, size: int, device: str) -> None:
    x = torch.linspace(-4, 4, size, device=device)
    assert_same_bits(op(x), op.expected(x), x)


@EVERY_OP
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("along", ["rows", "columns"])
def test_large_results_are_those_of_their_parts(op: Op, dtype: torch.dtype, along: str, device: str) -> None:
    """Rows whose length is not a multiple of a vector's, on all threads."""
    every = values(dtype, device)
    row = every[:: max(1, len(every) // 4093)].repeat(64)[:4093]
    x = row.repeat(2**24 // (row.numel() * row.element_size()) + 1, 1)
    arguments = op.arguments_for(x)
    if along == "columns":
        arguments = tuple(a.unsqueeze(-1) if isinstance(a, Tensor) else a for a in op.arguments_for(x[:, 0]))
    full = [a.expand_as(x) if isinstance(a, Tensor) else a for a in arguments]
    arguments = arguments if op.broadcasts else tuple(full)
    small = max(1, len(x) // 40)
    parts = [
        op.function(x[i : i + small], *[a[i : i + small] if isinstance(a, Tensor) else a for a in full])
        for i in range(0, len(x), small)
    ]
    assert_same_bits(op.function(x, *arguments), torch.cat(parts))


@EVERY_OP
def test_zero_dimensional(op: Op, device: str) -> None:
    x = torch.tensor(1.5, device=device)
    assert_same_bits(op(x), op.expected(x))


def layouts(device: str) -> dict[str, Tensor]:
    x = torch.linspace(-4, 4, 2 * 3 * 5 * 7, device=device).reshape(2, 3, 5, 7)
    return {
        "contiguous": x,
        "transposed": x.transpose(1, 3),
        "sliced": x[:, :, 1::2, ::3],
        "expanded": x[:, :1].expand(2, 6, 5, 7),
        "channels_last": x.to(memory_format=torch.channels_last),
        "channels_last_3d": x[..., None].repeat(1, 1, 1, 1, 2).to(memory_format=torch.channels_last_3d),
        "no_elements": x[:, :0],
    }


@EVERY_OP
@pytest.mark.parametrize("layout", layouts("cpu"))
def test_layouts(op: Op, layout: str, device: str) -> None:
    x = layouts(device)[layout]
    y = op(x)
    assert_same_bits(y, op.expected(x), x)
    # A copy without elements keeps its strides, which then mean nothing.
    like = torch.clone(x) if op.name == "straight_through" and x.numel() == 0 else torch.round(x)
    assert y.stride() == like.stride()


@pytest.mark.parametrize("name", ["tensor_clamp", "tensor_clamp_ste"])
def test_memory_format_is_that_of_x_and_not_of_the_bounds(name: str, device: str) -> None:
    x = layouts(device)["channels_last"]
    low, high = torch.full(x.shape, -1.0, device=device), torch.full(x.shape, 1.0, device=device)
    assert getattr(ste, name)(x, low, high).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
def test_result_is_a_new_tensor(op: Op, device: str) -> None:
    tensors = [torch.tensor([1.0, 2.0], device=device), torch.tensor([1, 2], device=device)]
    for x in tensors[:1] if op.floating_only else tensors:
        before = x.clone()
        op(x).fill_(7)
        assert torch.equal(x, before)


@pytest.mark.parametrize("op", DISTINCT_OPS, ids=str)
def test_inference_mode(op: Op, device: str) -> None:
    with torch.inference_mode():
        x = torch.tensor([0.3, -2.5, 7.0], device=device)
        assert_same_bits(op(x), op.expected(x), x)


# Corner cases of the clamps that the rows of the table do not cover.


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_scalar_clamp_bounds(bounds: tuple[float, float], dtype: torch.dtype, device: str) -> None:
    x = values(dtype, device)
    y = ste.scalar_clamp_ste(x, *bounds)
    assert_same_bits(y, Op("scalar_clamp_ste", CLAMP, _clamp, bounds).expected(x), x)


@pytest.mark.parametrize("name", ["tensor_clamp", "tensor_clamp_ste"])
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("bounds_dtype", [None, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_tensor_clamp_bounds(
    name: str, bounds: tuple[float, float], dtype: torch.dtype, bounds_dtype: torch.dtype | None, device: str
) -> None:
    x = values(dtype, device)
    low, high = (torch.tensor(b, dtype=torch.float64, device=device).to(bounds_dtype or dtype) for b in bounds)
    y = getattr(ste, name)(x, low, high)
    expected = Op(name, CLAMP, _clamp, (lambda x: low.to(dtype), lambda x: high.to(dtype))).expected(x)
    # If x and a bound are zeros of different signs, the sign of the result is unspecified.
    assert_same_bits(torch.where(y == 0, 0.0, y).to(dtype), torch.where(expected == 0, 0.0, expected).to(dtype), x)


def _clamp(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    raised = np.where(x < low, low, x)
    result = np.where(raised > high, high, raised)
    return np.where(np.isnan(low) | np.isnan(high), np.nan, result)


@pytest.mark.parametrize("name", ["tensor_clamp", "tensor_clamp_ste"])
@pytest.mark.parametrize("side", ["min", "max"])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("shape", [(20, 3), (20, 33), (20, 128), (2000, 5)], ids=str)
def test_nan_in_one_of_the_bounds_of_many_rows(
    name: str, side: str, dtype: torch.dtype, shape: tuple[int, int], device: str
) -> None:
    """Rows with the same bounds, which the native loop loads once for all of them."""
    rows, columns = shape
    x = torch.linspace(-4, 4, rows * columns, device=device).to(dtype).reshape(shape)
    for at in {0, columns // 2, columns - 1}:
        bounds = {
            end: torch.full((columns,), value, device=device).to(dtype) for end, value in (("min", -1), ("max", 2))
        }
        bounds[side][at] = math.nan
        expected = x.clamp(-1, 2)
        expected[:, at] = math.nan
        assert_same_bits(getattr(ste, name)(x, bounds["min"], bounds["max"]), expected, x)


@pytest.mark.parametrize("integer", [2**63, 10**30, 10**400], ids=["2^63", "1e30", "1e400"])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_integers_that_no_dtype_holds(integer: int, dtype: torch.dtype, device: str) -> None:
    x = values(dtype, device)
    bound = float(integer) if integer < 10**308 else math.inf
    for function in (ste.scalar_clamp_ste, torch.func.vmap(ste.scalar_clamp_ste, in_dims=(0, None, None))):
        assert_same_bits(function(x, -integer, integer), ste.scalar_clamp_ste(x, -bound, bound), x)
    low = torch.tensor(-bound, dtype=torch.float64).to(dtype)
    expected = torch.where(x >= 0, torch.ones([], dtype=dtype), low)
    for sign in (ste.binary_sign_ste, torch.func.vmap(ste.binary_sign_ste, in_dims=(0, None))):
        assert_same_bits(sign(x, -integer), expected, x)


HUGE = 10**400
PAST_THE_RANGE = [(-1000, 1000), (3, -3), (-math.inf, math.inf), (2**62, 2**63 - 1), (-(2**70), 2**70)]
# The first double past int64, which a cast turns into its smallest value; the last before it; and one past the other
# end.
PAST_THE_RANGE += [(-(2.0**63), 2.0**63), (2.0**63, 2.0**63), (-math.inf, -(2.0**63)), (-1e300, 2.0**63 - 1024)]
PAST_THE_RANGE += [(2.0**63 - 1024, 1e300), (-(2.0**63) - 2048, -(2.0**63) + 1024)]


@pytest.mark.parametrize("dtype", INTEGER, ids=str)
@pytest.mark.parametrize("bounds", [*PAST_THE_RANGE, (-HUGE, HUGE)], ids=lambda b: "huge" if HUGE in b else str(b))
def test_integer_clamp_to_scalars_past_the_range(dtype: torch.dtype, bounds: tuple[float, float], device: str) -> None:
    x = values(dtype, device)
    info = torch.iinfo(dtype)
    low, high = (int(min(max(b, info.min), info.max)) for b in bounds)
    assert ste.scalar_clamp_ste(x, *bounds).tolist() == [min(max(v, low), high) for v in x.tolist()]


@pytest.mark.parametrize("dtype", INTEGER, ids=str)
@pytest.mark.parametrize("bounds_dtype", [torch.int64, torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["tensor_clamp", "tensor_clamp_ste"])
def test_integer_clamp_to_tensors_of_another_dtype(
    name: str, dtype: torch.dtype, bounds_dtype: torch.dtype, device: str
) -> None:
    x = values(dtype, device)
    info = torch.iinfo(dtype)
    pairs: list[tuple[float, float]] = [(-3.0, 4.0), (300.0, 400.0), (-400.0, -300.0), (4.0, -3.0)]
    if bounds_dtype.is_floating_point:
        pairs += [(-2.5, 3.5), (-math.inf, math.inf), (math.inf, math.inf), (0.5, 0.75)]
        pairs += [(-(2.0**63), 2.0**63), (2.0**63, 2.0**63), (-(2.0**63), -(2.0**63)), (-(2.0**64), 1e30)]
    for bounds in pairs:
        low, high = (torch.tensor(b, device=device).to(bounds_dtype) for b in bounds)
        y = getattr(ste, name)(x, low, high)
        inner_low, inner_high = (_inward(b, f, info) for b, f in zip(bounds, (math.ceil, math.floor)))
        assert y.dtype == dtype
        assert y.tolist() == [min(max(v, inner_low), inner_high) for v in x.tolist()], bounds


@pytest.mark.parametrize("dtype", [*FLOATING, *INTEGER], ids=str)
def test_low_of_the_binary_sign(dtype: torch.dtype, device: str) -> None:
    x = torch.tensor([0, 1, 5, -1] if dtype.is_signed else [0, 1, 5], dtype=dtype, device=device)
    for low in (127.0, 127, 0.0, -0.0, 1.0, *((-1.0, -128.0) if dtype.is_signed else (255, 255.0))):
        y = ste.binary_sign_ste(x, low)
        assert y.tolist() == [1 if v >= 0 else low for v in x.tolist()]
        if dtype.is_floating_point:
            assert math.copysign(1, y[-1].item()) == math.copysign(1, low)


@pytest.mark.parametrize("low", [2.0**63, 2**63, 2.0**64, math.inf, -math.inf, -(2.0**63) - 2048, math.nan])
@pytest.mark.parametrize("dtype", INTEGER, ids=str)
def test_low_that_no_integer_holds(low: Any, dtype: torch.dtype, device: str) -> None:
    x = torch.tensor([-1, 1], device=device).to(dtype)
    for function in (
        ste.binary_sign_ste,
        ste.autograd_ops.binary_sign_ste_fn.apply,
        torch.func.vmap(ste.binary_sign_ste, in_dims=(0, None)),
        # A graph cannot contain an integer past int64.
        *([torch.compile(ste.binary_sign_ste, backend="aot_eager")] if isinstance(low, float) else []),
    ):
        with pytest.raises(Exception, match=r"binary_sign_ste: low=\S+ cannot be represented in u?int\d+"):
            function(x, low)


def _inward(bound: float, toward: Callable[[float], int], info: torch.iinfo) -> int:
    if math.isinf(bound):
        return info.max if bound > 0 else info.min
    return min(max(toward(bound), info.min), info.max)
