"""Floating-point formats of few bits: the rules of ``csrc/fake_quantize_float/format.h``, in the same words."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

__all__ = ["FloatFormat"]

_OWN_NAME = re.compile(r"e(\d+)m(\d+):bias=(-?\d+):max=([0-9.e+-]+)(:inf)?")


@dataclass(frozen=True)
class FloatFormat:
    r"""A floating-point format of few bits, for :func:`ste.fake_quantize_float`.

    A number with the exponent field :math:`e` and the mantissa field :math:`m` (of :math:`M` bits) is
    :math:`2^{e - \mathit{bias}} (1 + m / 2^M)`, or, where :math:`e` is 0,
    :math:`2^{1 - \mathit{bias}} \, m / 2^M`: a subnormal number.

    Attributes:
        exponent_bits: 1 to 8.
        mantissa_bits: 0 to 10, without the leading bit.
        bias: What is subtracted from the exponent field; -62 to 62.
        max: The largest number. The fields may hold larger ones, which stand for infinity or NaN.
        has_infinity: Whether the format has an infinity.

    Raises:
        ValueError: An attribute is out of its range, or max is not a number of the format.

    Example:
        >>> ste.FloatFormat(4, 3, bias=7, max=448.0)
        FloatFormat(exponent_bits=4, mantissa_bits=3, bias=7, max=448.0, has_infinity=False)
        >>> str(ste.FloatFormat(4, 3, bias=7, max=448.0)), ste.FloatFormat.named("e2m1fn").max
        ('e4m3fn', 6.0)
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int
    max: float
    has_infinity: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (("exponent_bits", 1, 8), ("mantissa_bits", 0, 10), ("bias", -62, 62)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"FloatFormat: {name} must be from {low} to {high}, got {value}")
        object.__setattr__(self, "max", float(self.max))
        if not 0 < self.max < 2.0**64:
            raise ValueError(f"FloatFormat: max must be more than 0 and less than 2^64, got {self.max}")
        exponent = max(math.frexp(self.max)[1] - 1, 1 - self.bias)
        if exponent + self.bias >= 1 << self.exponent_bits or self.max % 2.0 ** (exponent - self.mantissa_bits):
            raise ValueError(f"FloatFormat: max={self.max} is not a number of the format")

    @property
    def smallest_normal(self) -> float:
        """The smallest number that has all bits of its mantissa."""
        return math.ldexp(1.0, 1 - self.bias)

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive number, and the distance between numbers up to twice the smallest normal one."""
        return math.ldexp(self.smallest_normal, -self.mantissa_bits)

    @classmethod
    def named(cls, name: str) -> "FloatFormat":
        """The format of a name, as in ml_dtypes, with or without the prefix ``float8_`` (``float6_``, ``float4_``).

        Args:
            name: ``"e4m3fn"``, ``"e5m2"``, ``"e4m3fnuz"``, ``"e5m2fnuz"``, ``"e3m2fn"``, ``"e2m3fn"`` or ``"e2m1fn"``;
                or what ``str`` gives for a format.

        Raises:
            ValueError: There is no such format.
        """
        return format_of("FloatFormat", name)

    def __str__(self) -> str:
        for name, known in _NAMED.items():
            if known == self:
                return name
        infinity = ":inf" if self.has_infinity else ""
        return f"e{self.exponent_bits}m{self.mantissa_bits}:bias={self.bias}:max={self.max!r}{infinity}"


_NAMED = {
    "e4m3fn": FloatFormat(4, 3, 7, 448.0),
    "e5m2": FloatFormat(5, 2, 15, 57344.0, has_infinity=True),
    "e4m3fnuz": FloatFormat(4, 3, 8, 240.0),
    "e5m2fnuz": FloatFormat(5, 2, 16, 57344.0),
    "e3m2fn": FloatFormat(3, 2, 3, 28.0),
    "e2m3fn": FloatFormat(2, 3, 1, 7.5),
    "e2m1fn": FloatFormat(2, 1, 1, 6.0),
}


# The names of ml_dtypes, with and without the prefix.
_BY_NAME = _NAMED | {f"float{1 + f.exponent_bits + f.mantissa_bits}_{name}": f for name, f in _NAMED.items()}


if TYPE_CHECKING:
    Format: TypeAlias = str | FloatFormat
else:  # TorchScript reads annotations when it compiles, and supports no union.
    Format = str


def format_of(op: str, name: str, argument: str = "format", others: str = "") -> FloatFormat:
    """The format of a name. `argument` is what the op calls it, and `others` is what else the op accepts."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    match = _OWN_NAME.fullmatch(name)
    if match is not None:
        exponent_bits, mantissa_bits, bias, largest, infinity = match.groups()
        try:
            sizes = int(exponent_bits), int(mantissa_bits), int(bias)
            return FloatFormat(*sizes, float(largest), has_infinity=infinity is not None)
        except ValueError:
            pass
    raise ValueError(f"{op}: {argument} must be one of {', '.join(_NAMED)}, {others}or a ste.FloatFormat, got {name}")
