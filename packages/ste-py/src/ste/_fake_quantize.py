"""fake_quantize."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ste._arguments import beside, check_is_floating, check_quantization, end_in_dtype, integer, tensor_parameter
from ste._clamp import clamp_by_extrema
from ste._function import ElementwiseFunction, may_be_differentiated, sum_to

__all__ = ["fake_quantize_fn"]


class fake_quantize_fn(ElementwiseFunction):
    """Autograd class of :func:`ste.fake_quantize`."""

    @staticmethod
    def forward(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None = None,
        quant_min: int = -128,
        quant_max: int = 127,
        grad_scale: torch.types.Number = 1.0,
        inside: str = "rounded",
    ) -> Tensor:
        return _checked_grid(x, scale, zero_point, quant_min, quant_max, grad_scale, inside).values().to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, zero_point, *ctx.rest = inputs
        scale = tensor_parameter("fake_quantize", "scale", scale, x)
        ctx.save_for_backward(x, scale, zero_point)
        ctx.save_for_forward(x, scale, zero_point)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        quant_min, quant_max, grad_scale, inside = ctx.rest
        grid = _Grid(x, scale, zero_point, quant_min, quant_max, inside)
        wide = g.to(grid.dtype)
        needs_x, needs_scale, needs_zero_point = ctx.needs_input_grad[:3]
        return (
            torch.where(grid.is_inside, g, 0) if needs_x else None,
            sum_to(scale, wide * grid.slope_to_scale(zero_point, grad_scale), grad_scale) if needs_scale else None,
            sum_to(zero_point, wide * grid.slope_to_zero_point(scale, grad_scale), grad_scale)
            if needs_zero_point
            else None,
            *(None, None, None, None),
        )

    @staticmethod
    def jvp(ctx: Any, x_tangent: Any, scale_tangent: Any, zero_point_tangent: Any, *_: Any) -> Tensor:
        x, scale, zero_point = ctx.saved_tensors
        quant_min, quant_max, grad_scale, inside = ctx.rest
        grid = _Grid(x, scale, zero_point, quant_min, quant_max, inside)
        tangent = torch.where(grid.is_inside, 0 if x_tangent is None else x_tangent.to(grid.dtype), grid.zero)
        if scale_tangent is not None:
            change = beside(scale_tangent, x) * grad_scale
            tangent = tangent + grid.slope_to_scale(zero_point, grad_scale) * change
        if zero_point_tangent is not None:
            change = beside(zero_point_tangent, x) * grad_scale
            tangent = tangent + grid.slope_to_zero_point(scale, grad_scale) * change
        return tangent.to(x.dtype)

    @staticmethod
    def decomposition(
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None = None,
        quant_min: int = -128,
        quant_max: int = 127,
        grad_scale: torch.types.Number = 1.0,
        inside: str = "rounded",
    ) -> Tensor:
        """The same values and the same gradients from operations of torch alone, at every level of every transform."""
        grid = _checked_grid(
            x, scale, zero_point, quant_min, quant_max, grad_scale, inside, clamp=_clamp_between_numbers
        )
        y = grid.values()
        parameters = (scale,) if zero_point is None else (scale, zero_point)
        if may_be_differentiated(x, *parameters):
            # Zeros, the gradient of which is the op's.
            change = torch.where(grid.is_inside, _zero_with_gradient_to(x, grid.dtype), 0)
            to_scale = _zero_with_gradient_to(beside(scale, x), grid.dtype) * grad_scale
            change = change + grid.slope_to_scale(zero_point, grad_scale) * to_scale
            if zero_point is not None:
                to_zero_point = _zero_with_gradient_to(beside(zero_point, x), grid.dtype) * grad_scale
                change = change + grid.slope_to_zero_point(scale.detach(), grad_scale) * to_zero_point
            # The change itself is NaN where a slope is not finite. Twice subtracted, 0 keeps the sign of a zero.
            y = y - (0 - _zero_with_gradient_to(change, grid.dtype))
        return y.to(x.dtype)

    @staticmethod
    def symbolic(
        g: Any, x: Any, scale: Any, zero_point: Any, quant_min: Any, quant_max: Any, grad_scale: Any, inside: Any
    ) -> Any:
        from torch.onnx import symbolic_helper

        is_double = x.type().scalarType() == "Double"
        computed, dtype = (torch.float64, 11) if is_double else (torch.float32, 1)  # as ONNX numbers them
        x_wide, scale = (g.op("Cast", value, to_i=dtype) for value in (x, scale))

        def end(value: Any, name: str, is_min: bool) -> Any:
            number = end_in_dtype(symbolic_helper._get_const(value, "i", name), computed, is_min)
            return g.op("Constant", value_t=torch.tensor(number, dtype=computed))

        low, high = end(quant_min, "quant_min", True), end(quant_max, "quant_max", False)
        is_none = zero_point.type().kind() == "NoneType"
        zero_point = g.op("Cast", g.op("Constant", value_t=torch.tensor(0)) if is_none else zero_point, to_i=dtype)
        rounded = g.op("Add", g.op("Round", g.op("Div", x_wide, scale)), zero_point)
        q = g.op("Min", g.op("Max", rounded, low), high)
        return g.op("CastLike", g.op("Mul", g.op("Sub", q, zero_point), scale), x)


def _checked_grid(
    x: Tensor,
    scale: Any,
    zero_point: Tensor | None,
    quant_min: Any,
    quant_max: Any,
    grad_scale: Any,
    inside: Any,
    **how: Any,
) -> "_Grid":
    check_is_floating("fake_quantize", "x", x)
    scale = tensor_parameter("fake_quantize", "scale", scale, x)
    check_quantization("fake_quantize", x, scale, zero_point, quant_min, quant_max, grad_scale, inside)
    return _Grid(x, scale, zero_point, quant_min, quant_max, inside, **how)


class _Grid:
    """x on the grid of integers, in the dtype that it is computed in, as values that are not to be differentiated.

    Attributes:
        dtype: float64 for x of that dtype, else float32.
        scaled: x / scale.
        q: The integer, between the ends.
        is_inside: Whether it was between the ends before it was clamped; or, if told so, before it was rounded.
        zero: As a tensor.
    """

    def __init__(
        self,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        quant_min: Any,
        quant_max: Any,
        inside: str,
        *,
        clamp: Callable[..., Tensor] = torch.clamp,
    ) -> None:
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self._inside = inside
        self.scale = beside(scale.detach(), x).to(self.dtype)
        self.zero_point = None if zero_point is None else beside(zero_point.detach(), x).to(self.dtype)
        self.scaled = x.detach().to(self.dtype) / self.scale
        shifted = self._shift(torch.round(self.scaled))
        # There is no -0. (To add 0 gives that too, but the exporter to ONNX leaves out what adds a constant 0.)
        self._shifted = torch.where(shifted == 0, 0, shifted)
        self._ends = self._end(quant_min, is_min=True), self._end(quant_max, is_min=False)
        self.q = clamp(self._shifted, *self._ends)

    @cached_property
    def is_inside(self) -> Any:
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

    @cached_property
    def zero(self) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=self.q.device)

    def values(self) -> Tensor:
        return self._from(self.zero_point) * self.scale

    def slope_to_scale(self, zero_point: Tensor | None, grad_scale: Any) -> Tensor:
        """The derivative by the scale, which is a function of the zero point outside of the range."""
        outside = self._from(self._with_gradient_times(grad_scale, zero_point))
        return torch.where(self.is_inside, self._from(self.zero_point) - self.scaled, outside)

    def slope_to_zero_point(self, scale: Tensor, grad_scale: Any) -> Tensor:
        """The derivative by the zero point, which is a function of the scale outside of the range."""
        return torch.where(self.is_inside, self.zero, -self._with_gradient_times(grad_scale, scale))

    def _from(self, zero_point: Tensor | None) -> Tensor:
        return self.q if zero_point is None else self.q - zero_point

    def _with_gradient_times(self, factor: Any, parameter: Any) -> Any:
        """The parameter, to which the gradient is multiplied by a factor."""
        if parameter is None:
            return None
        wide = beside(parameter, self.scaled).to(self.dtype)
        if not isinstance(factor, (torch.SymInt, torch.SymFloat)) and factor == 1:
            return wide
        return wide.detach() - (0 - _zero_with_gradient_to(wide, self.dtype)) * factor


def _zero_with_gradient_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """0 with a derivative of 1, whatever the tensor's value is, be it NaN: of a sign that is 1 everywhere."""
    one: Tensor = torch.ops.ste.binary_sign_ste(tensor.to(dtype), 1.0)
    return one - 1


def _clamp_between_numbers(x: Tensor, low: Any, high: Any) -> Tensor:
    return clamp_by_extrema(x, *(torch.scalar_tensor(end, dtype=x.dtype, device=x.device) for end in (low, high)))
