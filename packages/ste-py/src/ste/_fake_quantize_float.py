"""fake_quantize_float."""

import math
from typing import Any

import torch
from torch import Tensor

from ste._arguments import (
    check_is_bool,
    check_is_floating,
    check_is_string,
    check_parameter,
    check_random,
    number,
    tensor_parameter,
)
from ste._float_format import FloatFormat, format_of
from ste._function import onnx_is_none
from ste._grid import Grid, GridFunction
from ste._rounding import onnx_round_at_random, round_at_random

__all__ = ["fake_quantize_float_fn"]


class fake_quantize_float_fn(GridFunction):
    """Autograd class of :func:`ste.fake_quantize_float`."""

    has_zero_point = False

    @staticmethod
    def forward(
        x: Tensor,
        scale: Tensor,
        format: str,
        grad_scale: torch.types.Number = 1.0,
        saturate: bool = True,
        random: Tensor | None = None,
    ) -> Tensor:
        arguments = fake_quantize_float_fn.checked(x, scale, format, grad_scale, saturate, random)
        return fake_quantize_float_fn.grid(*arguments).values().to(x.dtype)

    @staticmethod
    def checked(
        x: Tensor,
        scale: Any,
        format: Any,
        grad_scale: Any = 1.0,
        saturate: Any = True,
        random: Tensor | None = None,
    ) -> tuple[Any, ...]:
        check_is_floating("fake_quantize_float", "x", x)
        scale = tensor_parameter("fake_quantize_float", "scale", scale, x)
        check_parameter("fake_quantize_float", "scale", scale, x)
        check_is_string("fake_quantize_float", "format", format)
        format_of("fake_quantize_float", format)
        if not isinstance(grad_scale, (torch.SymInt, torch.SymFloat)):
            number("fake_quantize_float", "grad_scale", grad_scale)
        check_is_bool("fake_quantize_float", "saturate", saturate)
        check_random("fake_quantize_float", random, x)
        return x, scale, format, grad_scale, saturate, random

    @staticmethod
    def grid(*arguments: Any, is_traced: bool = False) -> Grid:
        return _FloatGrid(*arguments)

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, format: Any, grad_scale: Any, saturate: Any, random: Any) -> Any:
        from torch.onnx import symbolic_helper

        is_double = x.type().scalarType() == "Double"
        computed, dtype = (torch.float64, 11) if is_double else (torch.float32, 1)  # as ONNX numbers them
        of_format = Numbers(
            format_of("fake_quantize_float", symbolic_helper._get_const(format, "s", "format")),
            bool(symbolic_helper._get_const(saturate, "b", "saturate")),
            computed,
        )

        def constant(value: float) -> Any:
            return g.op("Constant", value_t=torch.tensor(value, dtype=computed))

        x_wide, scale = (g.op("Cast", value, to_i=dtype) for value in (x, scale))
        v = g.op("Div", x_wide, scale)
        size = g.op("Abs", v)
        held = g.op("Where", g.op("Greater", size, constant(of_format.limit)), constant(of_format.limit), size)
        power = constant(of_format.least)
        for step in of_format.steps:
            larger = g.op("Mul", power, constant(step))
            power = g.op("Where", g.op("GreaterOrEqual", held, larger), larger, power)
        zero = constant(0.0)

        def signed(size: Any) -> Any:
            return g.op("Where", g.op("Less", v, zero), g.op("Neg", size), size)

        if onnx_is_none(random):
            raised = g.op("Mul", power, constant(of_format.shift))
            rounded = g.op("Sub", g.op("Add", held, raised), raised)
        else:
            step = g.op("Mul", power, constant(of_format.step))
            rounded = g.op("Mul", g.op("Abs", onnx_round_at_random(g, g.op("Div", signed(held), step), random)), step)
        is_over = g.op("Greater", rounded, constant(of_format.max))
        q = signed(g.op("Where", is_over, constant(of_format.overflow), rounded))
        q = g.op("Where", g.op("Equal", v, zero), v, q)
        return g.op("CastLike", g.op("Mul", q, scale), x)


class Numbers:
    """A format, as numbers in the dtype of the computation.

    Attributes:
        least: The smallest power of two that has all bits of the mantissa.
        limit: A power of two beyond max.
        exponents: The number of powers of two above the least, up to the limit.
        steps: Factors, each taken or not, that lead from the least to every power of two up to the limit.
        shift: Times a power of two, it leaves no bits below the format's when added to a number below twice that power.
        step: Times a power of two, the distance between the numbers from that power to twice it.
        overflow: What a magnitude beyond max becomes.
    """

    def __init__(self, format: FloatFormat, saturate: bool, dtype: torch.dtype) -> None:
        self.least = format.smallest_normal
        self.max = format.max
        self.limit = 2.0 ** math.frexp(format.max)[1]
        self.exponents = max(round(math.log2(self.limit / self.least)), 0)
        self.steps = [2.0 ** (1 << k) for k in reversed(range(self.exponents.bit_length()))]
        self.shift = 2.0 ** ((52 if dtype == torch.float64 else 23) - format.mantissa_bits)
        self.step = 2.0**-format.mantissa_bits
        beyond = math.inf if format.has_infinity else math.nan
        self.overflow = format.max if saturate else beyond

    def round(self, scaled: Tensor, random: Tensor | None) -> tuple[Tensor, Tensor]:
        """The magnitudes, rounded as if there were no largest exponent, and the numbers of the format."""
        is_negative = scaled < 0
        size = scaled.abs()
        held = torch.where(size > self.limit, self.limit, size)
        power = self._power_within(held)
        if random is None:
            raised = power * self.shift
            rounded = (held + raised) - raised
        else:
            distance = power * self.step
            rounded = round_at_random(torch.where(is_negative, -held, held) / distance, random).abs() * distance
        q = torch.where(rounded > self.max, self.overflow, rounded)
        # Not copysign, which is not an operator of ONNX. A zero keeps its sign.
        return rounded, torch.where(scaled == 0, scaled, torch.where(is_negative, -q, q))

    def _power_within(self, held: Tensor) -> Tensor:
        """The largest power of two that is at most each number, by comparisons: not all tensors give access to bits."""
        power = torch.full_like(held, self.least)
        if torch.compiler.is_compiling():
            # With each power. The comparisons below are fewer, but each is of the result of the one before, and
            # compilers write out all that comes before at each use: they take a minute.
            for exponent in range(1, self.exponents + 1):
                larger = math.ldexp(self.least, exponent)
                power = torch.where(held >= larger, larger, power)
            return power
        for step in self.steps:
            above = power * step
            power = torch.where(held >= above, above, power)
        return power


class _FloatGrid(Grid):
    """x on the grid of a format's numbers."""

    def __init__(
        self, x: Tensor, scale: Tensor, format: str, grad_scale: Any, saturate: bool, random: Tensor | None
    ) -> None:
        super().__init__(x, scale, None, random, grad_scale)
        self._numbers = Numbers(format_of("fake_quantize_float", format), saturate, self.dtype)
        self._rounded, self.q = self._numbers.round(self.scaled, self.random)

    def _compare_with_range(self) -> Any:
        return self._rounded <= self._numbers.max
