"""Every op on a sample of float32's patterns, from every sign and exponent: `make sweep` does this with all of them."""

from collections.abc import Callable
from dataclasses import replace

import block_oracle
import numpy as np
import pytest
import torch
from float_formats import FLOAT_FORMATS
from op_table import OPS, Array, Op
from pattern_cases import CASES
from patterns import (
    CHUNK,
    CHUNKS,
    IN_ORDER,
    LARGEST,
    SPREAD,
    Arrangement,
    Case,
    DifferenceError,
    by_table,
    check,
    chunk,
    is_on_python,
    sample,
)
from torch import Tensor

from ste.surrogates import TABLE

EVERY_ARRANGEMENT = pytest.mark.parametrize("arrangement", [IN_ORDER, SPREAD], ids=["in order", "spread"])
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sample(case: Case) -> None:
    check(case, sample(case.arrangement), beside_python=case.beside_python != "none")


def test_the_cases_are_of_every_op_format_surrogate_and_rule() -> None:
    assert len(BY_NAME) == len(CASES)
    arguments = {op.name: [case.op.arguments for case in CASES if case.op.name == op.name] for op in OPS}
    assert all(arguments.values())
    assert {given[1] for given in arguments["fake_quantize_float"]} == set(FLOAT_FORMATS)
    assert {given[2] for given in arguments["fake_quantize_blocks"]} == set(block_oracle.RULES)
    for sign in ("binary_sign_ste", "ternary_sign_ste"):
        assert {given[1] for given in arguments[sign] if len(given) > 1} == {kind.name for kind in TABLE}


@EVERY_ARRANGEMENT
def test_an_arrangement_has_every_pattern_once(arrangement: Arrangement) -> None:
    """It moves each bit of a number to a distinct place."""
    bits_of_block = 33 - arrangement.size.bit_length()

    def patterns(*blocks: int) -> list[list[int]]:
        rows: list[list[int]] = arrangement.patterns(np.array(blocks, np.uint32)).tolist()
        return rows

    offsets = patterns(0)[0]
    parts = [base for base, *_ in patterns(*(1 << bit for bit in range(bits_of_block)))]
    parts += [offsets[1 << bit] for bit in range(32 - bits_of_block)]
    assert sorted(parts) == [1 << bit for bit in range(32)]
    for number in (5, 77777, 2**bits_of_block - 1):
        base = sum(part for bit, part in enumerate(parts[:bits_of_block]) if number >> bit & 1)
        assert patterns(number) == [[base | offset for offset in offsets]]
    for number in (0, 77, CHUNKS - 1):
        blocks = CHUNK // arrangement.size
        expected = arrangement.patterns(np.arange(number * blocks, (number + 1) * blocks, dtype=np.uint32))
        assert (chunk(number, arrangement).numpy().view(np.uint32) == expected.reshape(-1)).all()


@EVERY_ARRANGEMENT
def test_a_sample_has_every_sign_and_exponent(arrangement: Arrangement) -> None:
    patterns = sample(arrangement).numpy().view(np.uint32)
    assert len(patterns) == CHUNK
    heads, counts = np.unique(patterns >> 23, return_counts=True)
    assert heads.tolist() == list(range(512))
    assert (counts == CHUNK // 512).all()
    assert_simple_mantissas(patterns, set(range(512)))


def assert_simple_mantissas(patterns: Array, heads: set[int]) -> None:
    for mantissa in [(top << 18) + by & (2**23 - 1) for top in range(32) for by in (-1, 0, 1)]:
        assert set(patterns[patterns & (2**23 - 1) == mantissa] >> 23) == heads


def test_every_magnitude_is_the_largest_of_a_block() -> None:
    for number in (0, 1, 77, 2040, 4079):
        x = chunk(number, LARGEST).reshape(-1, 2)
        assert x[:, 0].numpy().view(np.uint32).tolist() == list(range(number * CHUNK // 2, (number + 1) * CHUNK // 2))
        assert (x[:, 1].signbit() & (x[:, 1].abs() <= x[:, 0])).all()
        assert (x[:, 1] != 0).any() == (number > 40)
    patterns = sample(LARGEST).numpy().view(np.uint32)
    assert_simple_mantissas(patterns[::2], set(range(256)))


def test_an_eighth_has_every_sign_and_exponent() -> None:
    chosen = [number for number in range(CHUNKS) if is_on_python(number)]
    assert [number // 8 for number in chosen] == list(range(512))
    assert {number % 8 for number in chosen} == set(range(8))


@pytest.mark.parametrize("change", [torch.neg, lambda t: t + 1, lambda t: t * torch.nan], ids=["sign", "value", "NaN"])
@pytest.mark.parametrize(("output", "what"), [(0, "result"), (1, "gradient to x")])
@pytest.mark.parametrize("place", [0, 12345, CHUNK - 1])
def test_a_single_difference_is_found(place: int, output: int, what: str, change: Callable[[Tensor], Tensor]) -> None:
    def expected(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
        tensors = [tensor.clone() for tensor in by_table(op, x, g)]
        tensors[output][place] = change(tensors[output][place])
        return tensors

    x = torch.linspace(-9, 9, CHUNK)
    pattern = f"{int(x[place].view(torch.int32)) & 0xFFFFFFFF:#010x}"
    message = f"^round_ste: the {what} differs for 1 of 1048576 patterns\n  {place}: x = {pattern} "
    with pytest.raises(DifferenceError, match=message):
        check(replace(BY_NAME["round_ste"], expected=expected), x, beside_python=False)


def test_as_many_ulps_as_are_allowed() -> None:
    x = torch.linspace(-1, 1, CHUNK)

    def expected(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
        y, to_x = by_table(op, x, g)
        return [y, (to_x.view(torch.int32) + 2).view(torch.float32)]

    case = replace(BY_NAME["round_ste"], expected=expected, ulps=2)
    assert check(case, x, beside_python=True)[1:] == (2, 0)
    with pytest.raises(DifferenceError, match="differs for 1048576 of 1048576"):
        check(replace(case, ulps=1), x, beside_python=True)


@pytest.mark.parametrize("step", [-(2**31), 2**31 - 1, 2**30, 3])
def test_no_distance_is_too_large(step: int) -> None:
    """The distance overflows a 32-bit integer between numbers of different signs."""
    x = torch.linspace(-1, 1, CHUNK)

    def expected(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
        y, to_x = by_table(op, x, g)
        ordered = to_x.view(torch.int32) ^ ((to_x.view(torch.int32) >> 31) & 0x7FFF_FFFF)
        moved = ordered + step
        return [y, (moved ^ ((moved >> 31) & 0x7FFF_FFFF)).view(torch.float32)]

    with pytest.raises(DifferenceError, match="differs for 1048576 of 1048576"):
        check(replace(BY_NAME["round_ste"], expected=expected, ulps=2), x, beside_python=False)


def test_the_digest_is_of_every_bit() -> None:
    x = torch.linspace(-9, 9, CHUNK)
    case = BY_NAME["straight_through, hard=numbers"]
    digests = [check(case, x, beside_python=False).digest]
    for place in (0, 77, CHUNK - 1):
        changed = x.clone()
        changed[place] = torch.nextafter(x[place], torch.tensor(0.0))
        digests.append(check(case, changed, beside_python=False).digest)
        changed[place] = torch.nan
        digests.append(check(case, changed, beside_python=False).digest)
        changed.view(torch.int32)[place] = -1  # another NaN
        assert check(case, changed, beside_python=False).digest == digests[-1]
    assert len(set(digests)) == len(digests)
    assert check(case, x.clone(), beside_python=False).digest == digests[0]
