"""Shared by the autograd classes that put x on a grid, of integers or of a floating-point format, and back."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ste._arguments import beside, check_beside, tensor_parameter
from ste._batching import logical, with_batch
from ste._function import ElementwiseFunction, may_be_differentiated, sum_to


class GridFunction(ElementwiseFunction):
    """A Function of x, a scale, a zero point if the op has one, and, last, the random numbers to round by.

    Attributes:
        has_zero_point: Whether the op has a zero point.
    """

    has_zero_point: ClassVar[bool]
    _arity: ClassVar[int]

    @staticmethod
    def checked(*arguments: Any) -> tuple[Any, ...]:
        """All of the op's arguments, if they are valid, with the scale as a tensor."""
        raise NotImplementedError

    @staticmethod
    def grid(*arguments: Any, is_traced: bool = False) -> "Grid":
        """The grid, for arguments that have been checked."""
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._arity = len(inspect.signature(cls.forward).parameters)

    @classmethod
    def differentiated(cls, *args: Any) -> tuple[Any, ...]:
        if len(args) < cls._arity or not isinstance(args[-1], Tensor) or not args[-1].requires_grad:
            return args
        return *args[:-1], args[-1].detach()

    @classmethod
    def batched(cls, batch_size: int, in_dims: Sequence[int | None], args: Sequence[Any]) -> list[Any]:
        # The dispatcher leaves out arguments that have their default values.
        if len(args) < cls._arity or args[-1] is None:
            return super().batched(batch_size, in_dims, args)
        *others, random = args
        check_beside(cls._op(), "random", logical(random, in_dims[-1]), logical(args[0], in_dims[0]))
        return [*super().batched(batch_size, in_dims, others), with_batch(random, in_dims[-1], batch_size)]

    @classmethod
    def setup_context(cls, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, scale, *rest, random = inputs
        zero_points = rest[: cls.has_zero_point]
        ctx.settings = rest[cls.has_zero_point :]
        scale = tensor_parameter(cls._op(), "scale", scale, x)
        ctx.save_for_backward(x, scale, *zero_points, random)
        ctx.save_for_forward(x, scale, *zero_points, random)

    @classmethod
    def _op(cls) -> str:
        return cls.__name__.removesuffix("_fn")

    @classmethod
    def _saved(cls, ctx: Any) -> tuple[Tensor, Tensor, Tensor | None, "Grid"]:
        x, scale, *zero_points, random = ctx.saved_tensors
        grid = cls.grid(x, scale, *zero_points, *ctx.settings, random)
        return x, scale, zero_points[0] if zero_points else None, grid

    @classmethod
    def backward(cls, ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        _, scale, zero_point, grid = cls._saved(ctx)
        wide = g.to(grid.dtype)
        needs_x, needs_scale, needs_zero_point = ctx.needs_input_grad[:3]
        to_zero_point = None
        if zero_point is not None and needs_zero_point:
            # Masked, because where g is infinite, its product with a slope of 0 is NaN.
            counted = torch.where(grid.is_inside, 0, wide * grid.slope_to_zero_point(scale))
            to_zero_point = sum_to(zero_point, counted, grid.grad_scale)
        return (
            torch.where(grid.is_inside, g, 0) if needs_x else None,
            sum_to(scale, wide * grid.slope_to_scale(zero_point), grid.grad_scale) if needs_scale else None,
            to_zero_point,
            *(None, None, None, None, None),
        )

    @classmethod
    def jvp(cls, ctx: Any, x_tangent: Any, scale_tangent: Any, *tangents: Any) -> Tensor:
        x, scale, zero_point, grid = cls._saved(ctx)
        tangent = torch.where(grid.is_inside, 0 if x_tangent is None else x_tangent.to(grid.dtype), grid.zero)
        if scale_tangent is not None:
            change = beside(scale_tangent, x) * grid.grad_scale
            tangent = tangent + grid.slope_to_scale(zero_point) * change
        if zero_point is not None and tangents[0] is not None:
            change = beside(tangents[0], x) * grid.grad_scale
            tangent = tangent + grid.slope_to_zero_point(scale) * change
        return tangent.to(x.dtype)

    @classmethod
    def decomposition(cls, *given: Any) -> Tensor:
        """The same values and gradients from torch operations alone, at every level of every transform."""
        arguments = cls.checked(*given)
        x, scale, *rest = arguments
        zero_point = rest[0] if cls.has_zero_point else None
        grid = cls.grid(*arguments, is_traced=True)
        y = grid.values()
        parameters = (scale,) if zero_point is None else (scale, zero_point)
        if may_be_differentiated(x, *parameters):
            # Zeros whose gradient is the op's.
            change = torch.where(grid.is_inside, _zero_with_gradient_to(x, grid.dtype), 0)
            to_scale = _zero_with_gradient_to(beside(scale, x), grid.dtype) * grid.grad_scale
            change = change + grid.slope_to_scale(zero_point) * to_scale
            if zero_point is not None:
                to_zero_point = _zero_with_gradient_to(beside(zero_point, x), grid.dtype) * grid.grad_scale
                change = change + grid.slope_to_zero_point(scale.detach()) * to_zero_point
            # The change itself is NaN where a slope is not finite. Subtracting 0 twice keeps the sign of a zero.
            y = y - (0 - _zero_with_gradient_to(change, grid.dtype))
        return y.to(x.dtype)


class Grid:
    """x on a grid, in the dtype of the computation, as values that are not differentiated.

    Attributes:
        dtype: float64 if x is float64, else float32.
        scaled: x / scale.
        random: Numbers to round by, or None.
        q: The integer, clamped to the ends, or the number of the format.
        is_inside: Whether the gradient goes to x.
        grad_scale: The factor that the gradients to the parameters are multiplied by.
        zero: 0 as a tensor.
    """

    q: Tensor

    def __init__(
        self, x: Tensor, scale: Tensor, zero_point: Tensor | None, random: Tensor | None, grad_scale: Any
    ) -> None:
        self.dtype = torch.promote_types(x.dtype, torch.float32)
        self.scale = beside(scale.detach(), x).to(self.dtype)
        self.zero_point = None if zero_point is None else beside(zero_point.detach(), x).to(self.dtype)
        self.scaled = x.detach().to(self.dtype) / self.scale
        self.random = None if random is None else random.detach()
        self.grad_scale = grad_scale
        self._is_inside: Any = None

    @property
    def is_inside(self) -> Any:
        # Not a cached_property: before Python 3.12, it locks, and a process that is forked while another thread
        # computes it waits for that lock forever.
        if self._is_inside is None:
            self._is_inside = self._compare_with_range()
        return self._is_inside

    @property
    def zero(self) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=self.q.device)

    def values(self) -> Tensor:
        return self._from(self.zero_point) * self.scale

    def slope_to_scale(self, zero_point: Tensor | None) -> Tensor:
        """The derivative with respect to the scale; outside of the range, it is a function of the zero point."""
        outside = self._from(self._with_gradient(zero_point))
        return torch.where(self.is_inside, self._from(self.zero_point) - self.scaled, outside)

    def slope_to_zero_point(self, scale: Tensor) -> Tensor:
        """The derivative with respect to the zero point; outside of the range, it is a function of the scale."""
        return torch.where(self.is_inside, self.zero, -self._with_gradient(scale))

    def _compare_with_range(self) -> Any:
        raise NotImplementedError

    def _from(self, zero_point: Tensor | None) -> Tensor:
        return self.q if zero_point is None else self.q - zero_point

    def _with_gradient(self, parameter: Any) -> Any:
        """The parameter, with a gradient that is multiplied by grad_scale."""
        if parameter is None:
            return None
        wide = beside(parameter, self.scaled).to(self.dtype)
        if not isinstance(self.grad_scale, (torch.SymInt, torch.SymFloat)) and self.grad_scale == 1:
            return wide
        return wide.detach() - (0 - _zero_with_gradient_to(wide, self.dtype)) * self.grad_scale


def _zero_with_gradient_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """0 with a derivative of 1, whatever the tensor's value, NaN included: from a sign that is 1 everywhere."""
    one: Tensor = torch.ops.ste.binary_sign_ste(tensor.to(dtype), 1.0)
    return one - 1
