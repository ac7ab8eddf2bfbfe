"""fake_quantize_blocks in NumPy, written from the contract and not from the code.

It reads exponents from the bits. Every step is one operation in x's dtype, float32 or float64, rounded once.
"""

import re
from typing import Any, NamedTuple

import numpy as np
from float_formats import FLOAT_FORMATS

Array = np.ndarray[Any, Any]

RULES = ("absmax", "minmax", "floor", "ceil", "even", "rceil", "e4m3fn")
_OWN_NAME = re.compile(r"e\d+m(\d+):bias=(-?\d+):max=([0-9.e+-]+)(?::inf)?")
_INTEGERS = re.compile(r"int([2-8])")


class Grid(NamedTuple):
    """The numbers to which x is rounded, before it is multiplied by the scale.

    Attributes:
        max: The largest number.
        mantissa_bits: The bits of the mantissa, without the leading one.
        least: The exponent of the smallest number with a full mantissa.
        bits: The bits of an integer; None for a floating-point format.
    """

    max: float
    mantissa_bits: int
    least: int = 0
    bits: int | None = None


def grid_of(name: str) -> Grid:
    integers = _INTEGERS.fullmatch(name)
    if integers is not None:
        bits = int(integers.group(1))
        return Grid(2.0 ** (bits - 1) - 1, bits - 2, bits=bits)
    own = _OWN_NAME.fullmatch(name)
    if own is not None:
        return Grid(float(own.group(3)), int(own.group(1)), 1 - int(own.group(2)))
    mantissa_bits, bias, largest = FLOAT_FORMATS[re.sub(r"^float\d_", "", name)]
    return Grid(largest, mantissa_bits, 1 - bias)


def exponent_and_significand(a: Array) -> tuple[Array, Array]:
    """For positive a: floor(log2 a), and a / 2^floor(log2 a) as an integer with all the bits of the dtype.

    An infinity counts as the power of two after the largest number.
    """
    bits_of_mantissa, bias = (23, 127) if a.dtype == np.float32 else (52, 1023)
    pattern = a.view(np.uint32 if a.dtype == np.float32 else np.uint64).astype(np.int64)
    field, mantissa = pattern >> bits_of_mantissa, pattern & ((1 << bits_of_mantissa) - 1)
    is_normal = field > 0
    subnormal, highest = mantissa[~is_normal], np.zeros_like(mantissa)
    for bit in range(bits_of_mantissa if subnormal.any() else 0):
        highest[~is_normal] = np.where(subnormal >> bit & 1, bit, highest[~is_normal])
    exponent = np.where(is_normal, field - bias, highest + 1 - bias - bits_of_mantissa)
    significand = np.where(is_normal, mantissa | 1 << bits_of_mantissa, mantissa << (bits_of_mantissa - highest))
    return exponent, significand


def floor_log2(a: Array) -> Array:
    return exponent_and_significand(a)[0]


def ceil_log2(a: Array) -> Array:
    exponent, significand = exponent_and_significand(a)
    raised: Array = exponent + (significand != _one(a))
    return raised


def log2_of_rounded(a: Array, mantissa_bits: int) -> Array:
    """floor(log2) of a, rounded half to even to this many mantissa bits, with an unlimited exponent."""
    exponent, significand = exponent_and_significand(a)
    unit = _one(a) >> mantissa_bits
    whole, rest = significand // unit, significand % unit
    whole = whole + ((2 * rest > unit) | ((2 * rest == unit) & (whole % 2 == 1)))
    raised: Array = exponent + (whole == 2 << mantissa_bits)
    return raised


def _one(a: Array) -> int:
    """The significand of 1."""
    return 1 << (23 if a.dtype == np.float32 else 52)


def step_of_format(v: Array, mantissa_bits: int, least: int) -> Array:
    """The spacing of a format's numbers at each finite v, as if there were no largest exponent."""
    bits_of_exponent = np.uint32(0x7F80_0000) if v.dtype == np.float32 else np.uint64(0x7FF << 52)
    # 0 for a subnormal, which is below any format's least exponent.
    power = (v.view(bits_of_exponent.dtype) & bits_of_exponent).view(v.dtype)
    step: Array = np.maximum(power, v.dtype.type(2.0**least)) * v.dtype.type(2.0**-mantissa_bits)
    return step


def round_to_format(v: Array, mantissa_bits: int, least: int) -> Array:
    """Round to this many mantissa bits, half to even, without a largest exponent; a zero keeps its sign."""
    v = np.asarray(v)
    finite = np.where(np.isfinite(v), v, 0)
    step = step_of_format(finite, mantissa_bits, least)
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(v), np.rint(finite / step) * step, v)


def _blocks(x: Array, block: int | None, dim: int) -> Array:
    """The elements of a block as the first dimension, the blocks as the last; the last block is padded with 0."""
    lines = np.moveaxis(x, dim, -1)
    length = lines.shape[-1]
    size = max(length, 1) if block is None else block
    count = 1 if block is None else -(-length // size)
    filled = np.zeros((*lines.shape[:-1], count * size), x.dtype)
    filled[..., :length] = lines
    # If the elements come first, NumPy processes a vector of blocks at once: 20 times as fast for blocks of two.
    return np.ascontiguousarray(np.moveaxis(filled.reshape(*lines.shape[:-1], count, size), -1, 0))


def _back(of_blocks: Array, dim: int) -> Array:
    return np.moveaxis(of_blocks, -1, dim)


def default_tensor_scale(x: Array, grid: str) -> Array:
    """The default of the public functions."""
    largest = np.max(np.abs(x), initial=0) if x.size else x.dtype.type(0)
    with np.errstate(all="ignore"):
        return np.asarray(largest / x.dtype.type(grid_of(grid).max * 448), x.dtype)


def _beside(tensor_scale: Array, shape: tuple[int, ...]) -> Array:
    """A parameter with as many dimensions as x."""
    if tensor_scale.size == 1:
        return tensor_scale.reshape([1] * len(shape))
    return tensor_scale.reshape([1] * (len(shape) - tensor_scale.ndim) + list(tensor_scale.shape))


def _power(exponent: Array, dtype: Any) -> Array:
    power: Array = np.ldexp(1.0, np.clip(exponent, -127, 127)).astype(dtype)
    return power


def scales(
    x: Array, grid: str, block: int | None, rule: str, dim: int = -1, tensor_scale: Array | None = None
) -> Array:
    """One scale for each block, along dim."""
    if x.ndim == 0:
        return scales(x.reshape(1), grid, block, rule, -1, tensor_scale).reshape(())
    with np.errstate(all="ignore"):
        return _scales(x, grid_of(grid), block, rule, dim, tensor_scale)


def _scales(x: Array, grid: Grid, block: int | None, rule: str, dim: int, tensor_scale: Array | None) -> Array:
    dtype = x.dtype.type
    if rule == "minmax":
        assert grid.bits is not None
        low, high = _ends(x, block, dim)
        step: Array = (high - low) / dtype(2**grid.bits - 1)
        return step
    b = _back(np.max(np.abs(_blocks(x, block, dim)), axis=0, initial=0), dim)
    e = int(floor_log2(np.array(grid.max))[()])
    if rule == "absmax":
        s = b / dtype(grid.max)
    elif rule == "floor":
        s = _power(floor_log2(b) - e, dtype)
    elif rule == "ceil":
        s = _power(ceil_log2(b) - e, dtype)
    elif rule == "even":
        s = _power(log2_of_rounded(b, grid.mantissa_bits) - e, dtype)
    elif rule == "rceil":
        d = b / dtype(grid.max)
        s = np.where(d > 0, _power(ceil_log2(d), dtype), dtype(2.0**-127))
    else:
        assert rule == "e4m3fn" and tensor_scale is not None
        of_tensor = _beside(tensor_scale.astype(dtype), x.shape)
        d = b / dtype(grid.max)
        ratio = round_to_format(d / of_tensor, 3, -6)
        s = np.where(d == 0, 0, np.clip(ratio, dtype(-448), dtype(448)) * of_tensor)
    return np.where(np.isnan(b), b, np.where(b == 0, dtype(0), s)).astype(dtype)


def _ends(x: Array, block: int | None, dim: int) -> tuple[Array, Array]:
    blocks = _blocks(x, block, dim)
    return _back(np.min(blocks, axis=0, initial=0), dim), _back(np.max(blocks, axis=0, initial=0), dim)


def _divisor(s: Array) -> Array:
    return np.where(s == 0, s.dtype.type(np.inf), s)


def zero_points(x: Array, grid: str, block: int | None, dim: int = -1) -> Array:
    """Zero points of the rule minmax: one for each block, along dim."""
    if x.ndim == 0:
        return zero_points(x.reshape(1), grid, block).reshape(())
    bits = grid_of(grid).bits
    assert bits is not None
    half = x.dtype.type(2 ** (bits - 1))
    s = scales(x, grid, block, "minmax", dim)
    with np.errstate(all="ignore"):
        z: Array = np.clip(np.rint(-_ends(x, block, dim)[0] / _divisor(s)) - half, -half, half - 1)
    return z


def along(of_blocks: Array, x: Array, block: int | None, dim: int) -> Array:
    """Expand one value per block to one per element."""
    if x.ndim == 0:
        return of_blocks
    length = x.shape[dim]
    repeated = np.repeat(of_blocks, max(length, 1) if block is None else block, axis=dim)
    return repeated if repeated.shape[dim] == length else np.take(repeated, np.arange(length), axis=dim)


def fake_quantize_blocks(
    x: Array, grid: str, block: int | None, rule: str, dim: int = -1, tensor_scale: Array | None = None
) -> tuple[Array, Array]:
    """The result before it is rounded to a 16-bit dtype, and where the gradient passes to x."""
    numbers, dtype = grid_of(grid), x.dtype.type
    s = along(scales(x, grid, block, rule, dim, tensor_scale), x, block, dim)
    with np.errstate(all="ignore"):
        v = x / _divisor(s)
        if rule == "minmax":
            assert numbers.bits is not None
            z = along(zero_points(x, grid, block, dim), x, block, dim)
            r = np.rint(v) + z
            low, high = dtype(-(2 ** (numbers.bits - 1))), dtype(2 ** (numbers.bits - 1) - 1)
            q = np.clip(r, low, high) - z
        else:
            low, high = dtype(-numbers.max), dtype(numbers.max)
            r = np.rint(v) if numbers.bits else round_to_format(v, numbers.mantissa_bits, numbers.least)
            q = np.clip(r, low, high)
            if numbers.bits:
                q = q + dtype(0)  # no -0
        return np.asarray(q * s), np.asarray((low <= r) & (r <= high))
