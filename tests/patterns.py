"""The patterns of float32: all of them in chunks, a sample, and a check of an op's results for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from bits import bits
from op_table import Op
from torch import Tensor

import ste

Array = np.ndarray[Any, Any]

CHUNK = 2**20
CHUNKS = 2**32 // CHUNK
SHOWN = 5  # how many of the patterns that differ to show
LINES = 512  # lines of a sample: one for each pair of a sign and an exponent


class Arrangement(NamedTuple):
    """An order of all patterns, in blocks.

    Attributes:
        size: The size of a block.
        patterns: From the numbers of blocks to their patterns, one row for each block.
    """

    size: int
    patterns: Callable[[Array], Array]

    def numbers(self, blocks: Array) -> Tensor:
        return torch.from_numpy(self.patterns(blocks.astype(np.uint32)).reshape(-1).view(np.float32))


def _between(bits: Array, first: int, count: int, place: int) -> Array:
    """Move some of the bits, from the first on, to another place."""
    moved: Array = (bits >> np.uint32(first) & np.uint32(2**count - 1)) << np.uint32(place)
    return moved


def _spread(block: Array) -> Array:
    base = _between(block, 0, 22, 0) | _between(block, 22, 2, 25) | _between(block, 24, 3, 28)
    place = np.arange(32, dtype=np.uint32)
    pattern: Array = base[:, None] | _between(place, 0, 3, 22) | _between(place, 3, 1, 27) | _between(place, 4, 1, 31)
    return pattern


def _with_smaller(block: Array) -> Array:
    below = np.uint32(2**31) | (np.maximum(block, _SMALLER) - _SMALLER)
    return np.stack([block, below], 1)


# About an eighth, with other bits in the mantissa, so that the factor by which a scale is too large matters.
_SMALLER = np.uint32(0x016A_AAAB)

IN_ORDER = Arrangement(1, lambda block: block[:, None])
# Blocks of 32 in which a grid has large and small numbers: of both signs, from eight exponents, four neighbors and the
# 16th of each, and from both halves of the mantissas.
SPREAD = Arrangement(32, _spread)
# Each magnitude as the largest of a block, with a smaller negative one. This does not cover all negative numbers.
LARGEST = Arrangement(2, _with_smaller)


def chunk(number: int, arrangement: Arrangement) -> Tensor:
    blocks = CHUNK // arrangement.size
    return arrangement.numbers(np.arange(number * blocks, (number + 1) * blocks))


def is_on_python(number: int) -> bool:
    """Whether a chunk is in the eighth on which the Python backend runs too if it is slow.

    If they are in order, eight chunks share a sign and an exponent; from one eight to the next, another one is taken.
    """
    return number % 8 == number // 8 % 8


def sample(arrangement: Arrangement) -> Tensor:
    """2^20 patterns: equally many of each sign and exponent, with 5-bit mantissas, their neighbors, and random ones."""
    size = arrangement.size
    count, rest = CHUNK // LINES // size, 2**32 // LINES // size
    # Among all mantissas of a line, the 5-bit ones are 2^18 apart. They include ties and thresholds of grids.
    special = np.concatenate([np.arange(0, rest, 2**18) + by for by in (-1, 0, 1)]) % rest
    random = np.random.default_rng(0).integers(0, rest, (LINES, count))
    random[:, : len(special)] = special
    return arrangement.numbers((np.arange(LINES)[:, None] * rest + random).reshape(-1))


def _numbers(seed: int) -> Array:
    """A 64-bit generator. NumPy promises that this stream does not change."""
    return np.random.PCG64(seed).random_raw(CHUNK)


# The incoming gradients: none is 0, and all are exact.
GRADIENT = torch.from_numpy(((np.arange(CHUNK) - (CHUNK / 2 - 0.5)) / (CHUNK / 4)).astype(np.float32))
# Random numbers for rounding, with the limits of their range.
RANDOM = torch.from_numpy(((_numbers(0) >> np.uint64(40)) / 2**24).astype(np.float32))
RANDOM[1::37], RANDOM[2::37] = 0, 1 - 2**-24
_WEIGHTS = _numbers(1)[: CHUNK // 2] | np.uint64(1)


def random(x: Tensor) -> Tensor:
    return RANDOM


Expected = Callable[[Op, Tensor, Tensor], list[Tensor]]


def by_table(op: Op, x: Tensor, g: Tensor) -> list[Tensor]:
    return [op.expected(x), op.gradient(x, g)]


@dataclass(frozen=True)
class Case:
    """An op with arguments, on patterns.

    Attributes:
        name: The name of the op, and what is special about the arguments.
        op: The op, as in the table of ops.
        expected: NumPy's results for x and a gradient: the result, and as many gradients as are compared.
        arrangement: The order of the patterns.
        beside_python: On what part of all patterns the Python backend runs too. (On a sample it always does.)
        ulps: How far gradients may be from NumPy's.
        slack: How far they may be instead, as a fraction of the incoming gradient.
        ulps_of_backends: How far the gradients of the backends may be from each other.
    """

    name: str
    op: Op
    expected: Expected = by_table
    arrangement: Arrangement = IN_ORDER
    beside_python: Literal["all", "an eighth", "none"] = "an eighth"
    ulps: int = 0
    slack: float = 0
    ulps_of_backends: int = 0

    def runs_on_python(self, number: int) -> bool:
        return self.beside_python == "all" or (self.beside_python == "an eighth" and is_on_python(number))


class Outcome(NamedTuple):
    """What was found.

    Attributes:
        digest: A digest of all bits of the results and gradients, in which every NaN is the same.
        ulps: The largest distance of a gradient from NumPy's that slack did not cover.
        ulps_of_backends: The largest distance between the gradients of the backends.
    """

    digest: int
    ulps: int
    ulps_of_backends: int


class DifferenceError(Exception):
    """An op gives a wrong result. The text names the patterns."""


def check(case: Case, x: Tensor, *, beside_python: bool) -> Outcome:
    """Compare the backend that runs with NumPy and, if told so, with the Python backend.

    Raises:
        DifferenceError: They differ.
    """
    g = GRADIENT
    expected = case.expected(case.op, x, g)
    functions: dict[str, Callable[..., Any]] = {f"the {ste.backend().name} backend": case.op.public}
    if beside_python:
        functions["the autograd class"] = case.op.autograd_class.apply
    computed = {name: _computed(case.op, function, x, g, len(expected)) for name, function in functions.items()}
    found, *of_class = computed.values()
    ulps = ulps_of_backends = 0
    for i, tensor in enumerate(found):
        what = ("result", "gradient to x", "gradient to the first argument", "gradient to the second argument")[i]
        everything = {**{name: tensors[i] for name, tensors in computed.items()}, "NumPy": expected[i]}
        slack = case.slack * g.abs() if i and case.slack else None
        distance = _distance(tensor, expected[i], case.ulps if i else 0, slack)
        ulps = max(ulps, _checked(case, what, x, everything, distance))
        if of_class:
            distance = _distance(tensor, of_class[0][i], case.ulps_of_backends if i else 0)
            ulps_of_backends = max(ulps_of_backends, _checked(case, what, x, everything, distance))
    return Outcome(_digest(found), ulps, ulps_of_backends)


def _computed(op: Op, function: Callable[..., Any], x: Tensor, g: Tensor, count: int) -> list[Tensor]:
    """The result and the gradients to x and, if more are compared, to the arguments that are tensors."""
    x = x.detach().requires_grad_()
    arguments = op.arguments_for(x)
    leaves = [x]
    if count > 2:
        leaves += [a.requires_grad_() for a in arguments if isinstance(a, Tensor)]
    y = function(*op.in_order(x, *arguments))
    to_x, *to_arguments = torch.autograd.grad(y, leaves, g)
    # The sign of a gradient of 0 to an argument is unspecified.
    return [y.detach(), to_x, *(t + 0 for t in to_arguments)]


class _Distance(NamedTuple):
    """The largest distance within the tolerance, in ulp, and where it is larger."""

    ulps: int
    wrong: Tensor | None


def _distance(actual: Tensor, expected: Tensor, allowed: int, slack: Tensor | None = None) -> _Distance:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if torch.equal(actual.view(torch.int32), expected.view(torch.int32)):
        return _Distance(0, None)
    patterns = [_pattern(tensor) for tensor in (actual, expected)]
    if (patterns[0] ^ patterns[1]).amin() < 0:  # the signs differ
        patterns = [_ordered(pattern) for pattern in patterns]
    ulps = (patterns[0] - patterns[1]).abs()
    if slack is not None:
        ulps = torch.where((actual - expected).abs() <= slack, 0, ulps)
    largest = int(ulps.max())
    return _Distance(largest, ulps > allowed if largest > allowed else None)


def _pattern(tensor: Tensor) -> Tensor:
    """Like `bits`, in a third of the time if there is no NaN."""
    return bits(tensor) if np.isnan(tensor.numpy().max()) else tensor.view(torch.int32)


def _ordered(pattern: Tensor) -> Tensor:
    """Integers in the order of the numbers, one step for each, also between the two zeros."""
    return (pattern ^ ((pattern >> 31) & 0x7FFF_FFFF)).long()


def _checked(case: Case, what: str, x: Tensor, everything: dict[str, Tensor], distance: _Distance) -> int:
    if distance.wrong is None:
        return distance.ulps
    lines = [f"{case.name}: the {what} differs for {int(distance.wrong.sum())} of {x.numel()} patterns"]
    for place in distance.wrong.nonzero()[:SHOWN, 0].tolist():
        parts = [f"x = {_shown(x[place])}"] + [f"{name} {_shown(t[place])}" for name, t in everything.items()]
        lines.append(f"  {place}: {', '.join(parts)}")
    raise DifferenceError("\n".join(lines))


def _shown(number: Tensor) -> str:
    return f"{int(number.view(torch.int32)) & 0xFFFF_FFFF:#010x} ({number.item():.9g})"


def _digest(tensors: Sequence[Tensor]) -> int:
    """A 64-bit digest: a sum with random odd factors, which costs a tenth of a cryptographic hash."""
    total = 0
    for i, tensor in enumerate(tensors):
        total += (2 * i + 1) * int(np.dot(_pattern(tensor).numpy().view(np.uint64), _WEIGHTS))
    return total % 2**64
