"""The ops as :class:`torch.autograd.Function` classes: the pure-Python backend.

They are always importable and usable through ``.apply``, whatever backend the functions of :mod:`ste` run on, and they
support ``torch.func``, ``vmap`` and forward-mode AD. ``torch.compile`` sees the op in their place. The functions
(:func:`ste.round_ste` and so on) are what to call: they are cheaper, and take keyword arguments.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch.autograd import Function, forward_ad
from torch.autograd.function import FunctionMeta

from ste._arguments import (
    FLOATING,
    beside,
    check_bounds,
    check_is_floating,
    check_quantization,
    checked,
    end_in_dtype,
    exact_value,
    integer,
    scalar_bound,
    tensor_bound,
    tensor_parameter,
)
from ste._batching import batch_first

__all__ = [
    "binary_sign_ste_fn",
    "ceil_ste_fn",
    "fake_quantize_fn",
    "floor_ste_fn",
    "round_ste_fn",
    "scalar_clamp_ste_fn",
    "tensor_clamp_fn",
    "tensor_clamp_ste_fn",
    "ternary_sign_ste_fn",
    "trunc_ste_fn",
]


class _OpMeta(FunctionMeta):
    """Makes the classes ones that Dynamo does not take for Functions.

    It looks into a Function, and torch.func.grad over what it finds there is zero, without an error. Other classes it
    calls as they are written, and so it comes to `apply`.
    """


class _ElementwiseFunction(Function, metaclass=_OpMeta):
    """A Function of x and of what broadcasts to x's shape.

    Attributes:
        traced: The op, as compilers call it.
    """

    traced: ClassVar[Callable[..., Tensor]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        # A function and not a method: of a bound method Dynamo sees whose it is, and that it is a Function.
        def apply(*args: Any) -> Any:
            if torch.compiler.is_dynamo_compiling():
                return cls.traced(*args)
            return super(_ElementwiseFunction, cls).apply(*cls.differentiated(*args))  # type: ignore[no-untyped-call]

        cls.apply = staticmethod(apply)  # type: ignore[method-assign]

    @staticmethod
    def differentiated(*args: Any) -> tuple[Any, ...]:
        """The arguments, without gradients to those that get none."""
        return args

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        op = cls.__name__.removesuffix("_fn")
        batched = batch_first(op, cls.forward, info.batch_size, in_dims, args)
        return cls.apply(*batched), 0  # type: ignore[no-untyped-call]


class _StraightThrough(_ElementwiseFunction):
    """The gradient to x is the gradient that comes in; every other argument gets None."""

    @staticmethod
    def differentiated(*args: Any) -> tuple[Any, ...]:
        return without_gradient_to_bounds(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is saved."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return g, None, None  # one for each argument that any of the ops has; autograd drops the surplus

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, *_: Any) -> Tensor:
        return x_tangent


class round_ste_fn(_StraightThrough):
    """Autograd class of :func:`ste.round_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.round(checked("round_ste", x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Round", x)


class ceil_ste_fn(_StraightThrough):
    """Autograd class of :func:`ste.ceil_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.ceil(checked("ceil_ste", x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Ceil", x)


class floor_ste_fn(_StraightThrough):
    """Autograd class of :func:`ste.floor_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.floor(checked("floor_ste", x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Floor", x)


class trunc_ste_fn(_StraightThrough):
    """Autograd class of :func:`ste.trunc_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.trunc(checked("trunc_ste", x))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Mul", g.op("Floor", g.op("Abs", x)), g.op("Sign", x))


class ternary_sign_ste_fn(_StraightThrough):
    """Autograd class of :func:`ste.ternary_sign_ste`."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sign(checked("ternary_sign_ste", x))

    @staticmethod
    def decomposition(x: Tensor) -> Tensor:
        """Not torch.sign, whose value at NaN is 0 in PyTorch and NaN in ONNX Runtime."""
        checked("ternary_sign_ste", x)
        one, zero = (torch.scalar_tensor(value, dtype=x.dtype, device=x.device) for value in (1, 0))
        return torch.where(x > 0, one, zero if x.dtype == torch.uint8 else torch.where(x < 0, -one, zero))

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        minus_one, zero, one = (_onnx_like(g, x, number) for number in (-1.0, 0.0, 1.0))
        not_positive = g.op("Where", g.op("Less", x, zero), minus_one, zero)
        return g.op("Where", g.op("Greater", x, zero), one, not_positive)


class binary_sign_ste_fn(_StraightThrough):
    """Autograd class of :func:`ste.binary_sign_ste`."""

    @staticmethod
    def forward(x: Tensor, low: torch.types.Number = 0.0) -> Tensor:
        value: Any = exact_value("binary_sign_ste", "low", low, checked("binary_sign_ste", x))
        if isinstance(value, (torch.SymInt, torch.SymFloat)):  # which is not to be looked at
            symbol: Any = value
            value = torch.scalar_tensor(symbol, dtype=x.dtype, device=x.device)
        elif value == 0 and math.copysign(1, value) > 0:
            return (x >= 0).to(x.dtype)
        y = torch.where(x >= 0, torch.scalar_tensor(1, dtype=x.dtype, device=x.device), value)
        return y if y.dtype == x.dtype else y.to(x.dtype)

    @staticmethod
    def symbolic(g: Any, x: Any, low: Any = 0.0) -> Any:
        return g.op(
            "Where", g.op("GreaterOrEqual", x, _onnx_like(g, x, 0.0)), *(_onnx_like(g, x, v) for v in (1.0, low))
        )


class scalar_clamp_ste_fn(_StraightThrough):
    """Autograd class of :func:`ste.scalar_clamp_ste`."""

    @staticmethod
    def forward(x: Tensor, min_val: torch.types.Number, max_val: torch.types.Number) -> Tensor:
        return _scalar_clamp(x, min_val, max_val)

    @staticmethod
    def decomposition(x: Tensor, min_val: torch.types.Number, max_val: torch.types.Number) -> Tensor:
        bounds = _scalar_bounds(x, min_val, max_val)
        may_be_zero = any(isinstance(b, (torch.SymInt, torch.SymFloat)) or b == 0 for b in bounds)
        clamp = _clamp_by_comparison if may_be_zero else _clamp_by_extrema
        return clamp(x, *(torch.scalar_tensor(b, dtype=x.dtype, device=x.device) for b in bounds))

    @staticmethod
    def symbolic(g: Any, x: Any, min_val: Any, max_val: Any) -> Any:
        return g.op("Clip", x, _onnx_like(g, x, min_val), _onnx_like(g, x, max_val))


class tensor_clamp_ste_fn(_StraightThrough):
    """Autograd class of :func:`ste.tensor_clamp_ste`."""

    @staticmethod
    def forward(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        return _clamp("tensor_clamp_ste", x, min_val, max_val)

    @staticmethod
    def decomposition(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        check_bounds("tensor_clamp_ste", x, min_val, max_val)
        return _clamp_by_extrema(x, *_tensor_bounds(x, min_val, max_val))

    @staticmethod
    def symbolic(g: Any, x: Any, min_val: Any, max_val: Any) -> Any:
        return _onnx_clamp(g, x, min_val, max_val)


class tensor_clamp_fn(_ElementwiseFunction):
    """Autograd class of :func:`ste.tensor_clamp`."""

    @staticmethod
    def forward(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        return _clamp("tensor_clamp", x, min_val, max_val)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, min_val, max_val = ctx.saved_tensors
        is_x, is_min, is_max = _owners(x, min_val, max_val)
        widest = _widest(x, min_val, max_val)

        def bound_gradient(mask: Tensor, bound: Tensor) -> Tensor:
            return _sum_to(bound, torch.where(mask, g, 0).to(widest))

        needs_x, needs_min, needs_max = ctx.needs_input_grad
        return (
            torch.where(is_x, g, 0) if needs_x else None,
            bound_gradient(is_min, min_val) if needs_min else None,
            bound_gradient(is_max, max_val) if needs_max else None,
        )

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, min_tangent: Tensor | None, max_tangent: Tensor | None) -> Tensor:
        x, min_val, max_val = ctx.saved_tensors
        is_x, is_min, is_max = _owners(x, min_val, max_val)
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        tangent = torch.where(is_x, zero if x_tangent is None else x_tangent, zero)
        tangent = torch.where(is_min, zero if min_tangent is None else beside(min_tangent, x), tangent)
        return torch.where(is_max, zero if max_tangent is None else beside(max_tangent, x), tangent).to(x.dtype)

    @staticmethod
    def decomposition(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        """The same values and the same gradients from operations of torch alone, at every level of every transform."""
        check_bounds("tensor_clamp", x, min_val, max_val)
        min_val, max_val = beside(min_val, x), beside(max_val, x)
        if not x.is_floating_point() or not _may_be_differentiated(x, min_val, max_val):
            return _clamp_by_extrema(x, *_tensor_bounds(x, min_val, max_val))
        is_x, is_min, is_max = _owners(x, min_val, max_val)
        widest = _widest(x, min_val, max_val)
        y = _clamp_by_extrema(x.detach(), *_tensor_bounds(x, min_val.detach(), max_val.detach())).to(widest)
        # Added where nothing is to change: -0.0, as 0.0 would change the sign of -0.0. Computed, since inductor takes
        # the constants -0.0 and 0.0 for the same.
        nothing = y.isnan().to(widest) * -1
        nan_or_nothing = torch.where(y.isnan(), y, nothing)
        owned = torch.where(is_x, x.to(widest), y)
        owned = torch.where(is_min, min_val.to(widest), owned)
        owned = torch.where(is_max, max_val.to(widest), owned)
        return (owned + nan_or_nothing).to(x.dtype)

    @staticmethod
    def symbolic(g: Any, x: Any, min_val: Any, max_val: Any) -> Any:
        return _onnx_clamp(g, x, min_val, max_val)


class fake_quantize_fn(_ElementwiseFunction):
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
            _sum_to(scale, wide * grid.slope_to_scale(zero_point, grad_scale), grad_scale) if needs_scale else None,
            _sum_to(zero_point, wide * grid.slope_to_zero_point(scale, grad_scale), grad_scale)
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
        if _may_be_differentiated(x, *parameters):
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
    check_is_floating("fake_quantize", x)
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
    return _clamp_by_extrema(x, *(torch.scalar_tensor(end, dtype=x.dtype, device=x.device) for end in (low, high)))


def without_gradient_to_bounds(x: Any, *bounds: Any) -> tuple[Any, ...]:
    """The arguments, such that the result requires grad exactly when x does.

    Function.mark_non_differentiable is no way to say that: it refuses forward mode in x.
    """
    return x, *(b.detach() if isinstance(b, Tensor) and b.requires_grad else b for b in bounds)


def _scalar_bounds(x: Tensor, min_val: Any, max_val: Any) -> tuple[Any, Any]:
    checked("scalar_clamp_ste", x)
    return (
        scalar_bound("scalar_clamp_ste", "min_val", min_val, x),
        scalar_bound("scalar_clamp_ste", "max_val", max_val, x),
    )


def _tensor_bounds(x: Tensor, min_val: Tensor, max_val: Tensor) -> tuple[Tensor, Tensor]:
    return (
        tensor_bound(beside(min_val, x), x.dtype, is_min=True),
        tensor_bound(beside(max_val, x), x.dtype, is_min=False),
    )


def _sum_to(parameter: Tensor, change: Tensor, factor: Any = 1) -> Tensor:
    """The gradient of a parameter that broadcasts, where each element of x changes by it."""
    summed: Any = change.sum() if parameter.dim() > change.dim() else change.sum_to_size(parameter.shape)
    gradient: Tensor = summed * factor
    # Hooks for saved tensors may have made the parameter whole, which its gradient is not.
    dtype = parameter.dtype if parameter.dtype in FLOATING else gradient.dtype
    return gradient.reshape(parameter.shape).to(dtype=dtype, device=parameter.device)


def _scalar_clamp(x: Any, min_val: Any, max_val: Any) -> Tensor:
    """The clamp between numbers in eager mode."""
    # To check and to round the bounds takes half as long as all of the rest: for most there is nothing to do.
    if type(min_val) is float and type(max_val) is float and isinstance(x, Tensor) and x.dtype in FLOATING:
        try:
            return torch.clamp(x, min_val, max_val)
        except RuntimeError:  # "value cannot be converted to type at::Half without overflow"
            pass
    return torch.clamp(x, *_scalar_bounds(x, min_val, max_val))


def _clamp(op: str, x: Any, min_val: Any, max_val: Any) -> Tensor:
    """The clamp between tensors in eager mode."""
    # The checks take as long as all of the rest: where the dtypes are one, the outcome says whether they would pass.
    # (A bound without dimensions may be on the CPU for torch, and may not for us.)
    try:
        if (
            min_val.dtype is max_val.dtype is x.dtype in FLOATING
            and min_val.is_cpu is max_val.is_cpu is x.is_cpu
            and (y := torch.clamp(x, min_val, max_val)).dim() == x.dim()
            and y.numel() == x.numel() != 0  # and so y.shape == x.shape, at half the cost
        ):
            return y
    except (AttributeError, RuntimeError, TypeError):
        pass
    check_bounds(op, x, min_val, max_val)
    return torch.clamp(x, *_tensor_bounds(x, min_val, max_val))


def _clamp_by_extrema(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    """As compilers see a clamp between bounds in x's dtype.

    inductor and ONNX Runtime give torch.clamp's bits for it; and a jagged tensor has no torch.clamp between tensors.
    """
    return torch.minimum(torch.maximum(x, min_val), max_val)


def _clamp_by_comparison(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    """Keeps the sign of a zero beside a bound of zero: inductor's maximum of -0.0 and 0.0 is 0.0."""
    raised = torch.where((x >= min_val) | (x != x), x, min_val)
    return torch.where((raised <= max_val) | (raised != raised), raised, max_val)


def _onnx_clamp(g: Any, x: Any, min_val: Any, max_val: Any) -> Any:
    return g.op("Min", g.op("Max", x, _onnx_like(g, x, min_val)), _onnx_like(g, x, max_val))


def _onnx_like(g: Any, x: Any, value: Any) -> Any:
    """A number or a value of the graph, in x's dtype."""
    constant = g.op("Constant", value_t=torch.tensor(value)) if isinstance(value, float) else value
    return g.op("CastLike", constant, x)


def _may_be_differentiated(*tensors: Tensor) -> bool:
    return (
        _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )


def _owners(x: Tensor, min_val: Tensor, max_val: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the three arguments each element of the result, and so of the gradient, belongs to."""
    min_val, max_val = beside(min_val, x), beside(max_val, x)
    is_x = (x >= min_val) & (x <= max_val)
    is_max = (x > max_val) | (min_val > max_val)
    return is_x, (x < min_val) & ~is_max, is_max


def _widest(*tensors: Tensor) -> torch.dtype:
    """The dtype in which gradients to the bounds are summed: between threads, torch would round a sum of 16 bits."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
