"""fake_quantize."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ste._arguments import (
    check_is_floating,
    check_quantization,
    check_random,
    end_in_dtype,
    integer,
    tensor_parameter,
)
from ste._clamp import clamp_by_extrema
from ste._function import onnx_is_none
from ste._grid import Grid, GridFunction
from ste._rounding import onnx_round_at_random, rounded

__all__ = ["fake_quantize_fn"]


class fake_quantize_fn(GridFunction):
    """Autograd class of :func:`ste.fake_quantize`."""

    has_zero_point = True

    @staticmethod
    def forward(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None = None,
        quant_min: int = -128,
        quant_max: int = 127,
        grad_scale: torch.types.Number = 1.0,
        inside: str = "rounded",
        random: Tensor | None = None,
    ) -> Tensor:
        arguments = fake_quantize_fn.checked(x, scale, zero_point, quant_min, quant_max, grad_scale, inside, random)
        return fake_quantize_fn.grid(*arguments).values().to(x.dtype)

    @staticmethod
    def checked(
        x: Tensor,
        scale: Any,
        zero_point: Tensor | None = None,
        quant_min: Any = -128,
        quant_max: Any = 127,
        grad_scale: Any = 1.0,
        inside: Any = "rounded",
        random: Tensor | None = None,
    ) -> tuple[Any, ...]:
        check_is_floating("fake_quantize", "x", x)
        scale = tensor_parameter("fake_quantize", "scale", scale, x)
        check_quantization("fake_quantize", x, scale, zero_point, quant_min, quant_max, grad_scale, inside)
        check_random("fake_quantize", random, x)
        return x, scale, zero_point, quant_min, quant_max, grad_scale, inside, random

    @staticmethod
    def grid(*arguments: Any, is_traced: bool = False) -> Grid:
        return _IntegerGrid(*arguments, clamp=_clamp_between_numbers if is_traced else torch.clamp)

    @staticmethod
    def symbolic(
        g: Any,
        x: Any,
        scale: Any,
        zero_point: Any,
        quant_min: Any,
        quant_max: Any,
        grad_scale: Any,
        inside: Any,
        random: Any,
    ) -> Any:
        from torch.onnx import symbolic_helper

        is_double = x.type().scalarType() == "Double"
        computed, dtype = (torch.float64, 11) if is_double else (torch.float32, 1)  # as ONNX numbers them
        x_wide, scale = (g.op("Cast", value, to_i=dtype) for value in (x, scale))

        def end(value: Any, name: str, is_min: bool) -> Any:
            number = end_in_dtype(symbolic_helper._get_const(value, "i", name), computed, is_min)
            return g.op("Constant", value_t=torch.tensor(number, dtype=computed))

        low, high = end(quant_min, "quant_min", True), end(quant_max, "quant_max", False)
        zero = g.op("Constant", value_t=torch.tensor(0))
        zero_point = g.op("Cast", zero if onnx_is_none(zero_point) else zero_point, to_i=dtype)
        scaled = g.op("Div", x_wide, scale)
        rounded = g.op("Round", scaled) if onnx_is_none(random) else onnx_round_at_random(g, scaled, random)
        q = g.op("Min", g.op("Max", g.op("Add", rounded, zero_point), low), high)
        return g.op("CastLike", g.op("Mul", g.op("Sub", q, zero_point), scale), x)


class _IntegerGrid(Grid):
    """x on the grid of integers.

    Attributes:
        is_inside: Whether the integer was between the ends before the clamp or, with ``inside="scaled"``, before
            rounding.
    """

    def __init__(
        self,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        quant_min: Any,
        quant_max: Any,
        grad_scale: Any,
        inside: str,
        random: Tensor | None,
        *,
        clamp: Callable[..., Tensor],
    ) -> None:
        super().__init__(x, scale, zero_point, random, grad_scale)
        self._inside = inside
        shifted = self._shift(rounded(self.scaled, self.random))
        # There is no -0. (Adding 0 would do too, but the ONNX exporter drops the addition of a constant 0.)
        self._shifted = torch.where(shifted == 0, 0, shifted)
        self._ends = self._end(quant_min, is_min=True), self._end(quant_max, is_min=False)
        self.q = clamp(self._shifted, *self._ends)

    def _compare_with_range(self) -> Any:
        low, high = self._ends
        if self._inside == "rounded":
            return (self._shifted >= low) & (self._shifted <= high)
        exact = self._shift(self.scaled)
        return (exact > low) & (exact < high)

    def _shift(self, steps: Any) -> Any:
        return steps if self.zero_point is None else steps + self.zero_point

    def _end(self, end: Any, *, is_min: bool) -> Any:
        if isinstance(end, torch.SymInt):
            return torch.sym_float(end)
        return end_in_dtype(integer("fake_quantize", "quant_min", end), self.dtype, is_min)


def _clamp_between_numbers(x: Tensor, low: Any, high: Any) -> Tensor:
    return clamp_by_extrema(x, *(torch.scalar_tensor(end, dtype=x.dtype, device=x.device) for end in (low, high)))
