"""The clamps: scalar_clamp_ste, tensor_clamp_ste and tensor_clamp."""

from typing import Any

import torch
from torch import Tensor

from ste._arguments import FLOATING, beside, check_bounds, checked, scalar_bound, tensor_bound
from ste._function import ElementwiseFunction, StraightThrough, may_be_differentiated, onnx_like, sum_to

__all__ = ["scalar_clamp_ste_fn", "tensor_clamp_fn", "tensor_clamp_ste_fn"]


class scalar_clamp_ste_fn(StraightThrough):
    """Autograd class of :func:`ste.scalar_clamp_ste`."""

    @staticmethod
    def forward(x: Tensor, min_val: torch.types.Number, max_val: torch.types.Number) -> Tensor:
        return _scalar_clamp(x, min_val, max_val)

    @staticmethod
    def decomposition(x: Tensor, min_val: torch.types.Number, max_val: torch.types.Number) -> Tensor:
        bounds = _scalar_bounds(x, min_val, max_val)
        may_be_zero = any(isinstance(b, (torch.SymInt, torch.SymFloat)) or b == 0 for b in bounds)
        clamp = _clamp_by_comparison if may_be_zero else clamp_by_extrema
        return clamp(x, *(torch.scalar_tensor(b, dtype=x.dtype, device=x.device) for b in bounds))

    @staticmethod
    def symbolic(g: Any, x: Any, min_val: Any, max_val: Any) -> Any:
        return g.op("Clip", x, onnx_like(g, x, min_val), onnx_like(g, x, max_val))


class tensor_clamp_ste_fn(StraightThrough):
    """Autograd class of :func:`ste.tensor_clamp_ste`."""

    @staticmethod
    def forward(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        return _clamp("tensor_clamp_ste", x, min_val, max_val)

    @staticmethod
    def decomposition(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        check_bounds("tensor_clamp_ste", x, min_val, max_val)
        return clamp_by_extrema(x, *_tensor_bounds(x, min_val, max_val))

    @staticmethod
    def symbolic(g: Any, x: Any, min_val: Any, max_val: Any) -> Any:
        return _onnx_clamp(g, x, min_val, max_val)


class tensor_clamp_fn(ElementwiseFunction):
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
            return sum_to(bound, torch.where(mask, g, 0).to(widest))

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
        """The same values and gradients from torch operations alone, at every level of every transform."""
        check_bounds("tensor_clamp", x, min_val, max_val)
        min_val, max_val = beside(min_val, x), beside(max_val, x)
        if not x.is_floating_point() or not may_be_differentiated(x, min_val, max_val):
            return clamp_by_extrema(x, *_tensor_bounds(x, min_val, max_val))
        is_x, is_min, is_max = _owners(x, min_val, max_val)
        widest = _widest(x, min_val, max_val)
        y = clamp_by_extrema(x.detach(), *_tensor_bounds(x, min_val.detach(), max_val.detach())).to(widest)
        # Added where nothing is to change: -0.0, since 0.0 would change the sign of -0.0. It is computed, because
        # inductor takes the constants -0.0 and 0.0 for the same.
        nothing = y.isnan().to(widest) * -1
        nan_or_nothing = torch.where(y.isnan(), y, nothing)
        owned = torch.where(is_x, x.to(widest), y)
        owned = torch.where(is_min, min_val.to(widest), owned)
        owned = torch.where(is_max, max_val.to(widest), owned)
        return (owned + nan_or_nothing).to(x.dtype)

    @staticmethod
    def symbolic(g: Any, x: Any, min_val: Any, max_val: Any) -> Any:
        return _onnx_clamp(g, x, min_val, max_val)


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


def _scalar_clamp(x: Any, min_val: Any, max_val: Any) -> Tensor:
    """The clamp between numbers in eager mode."""
    # Checking and rounding the bounds takes half as long as all of the rest, and most bounds need neither.
    if type(min_val) is float and type(max_val) is float and isinstance(x, Tensor) and x.dtype in FLOATING:
        try:
            return torch.clamp(x, min_val, max_val)
        except RuntimeError:  # "value cannot be converted to type at::Half without overflow"
            pass
    return torch.clamp(x, *_scalar_bounds(x, min_val, max_val))


def _clamp(op: str, x: Any, min_val: Any, max_val: Any) -> Tensor:
    """The clamp between tensors in eager mode."""
    # The checks take as long as all of the rest. If the dtypes are the same, the outcome says whether they would pass.
    # (torch also accepts an x without dimensions on the CPU beside bounds elsewhere, which is an error here.)
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


def clamp_by_extrema(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    """A clamp between bounds in x's dtype, as compilers see it.

    inductor and ONNX Runtime compute it with torch.clamp's bits, and jagged tensors do not support torch.clamp between
    tensors.
    """
    return torch.minimum(torch.maximum(x, min_val), max_val)


def _clamp_by_comparison(x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
    """Keeps the sign of a zero beside a bound of zero: inductor's maximum of -0.0 and 0.0 is 0.0."""
    raised = torch.where((x >= min_val) | (x != x), x, min_val)
    return torch.where((raised <= max_val) | (raised != raised), raised, max_val)


def _onnx_clamp(g: Any, x: Any, min_val: Any, max_val: Any) -> Any:
    return g.op("Min", g.op("Max", x, onnx_like(g, x, min_val)), onnx_like(g, x, max_val))


def _owners(x: Tensor, min_val: Tensor, max_val: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the three arguments each element of the result, and so of the gradient, belongs to."""
    min_val, max_val = beside(min_val, x), beside(max_val, x)
    is_x = (x >= min_val) & (x <= max_val)
    is_max = (x > max_val) | (min_val > max_val)
    return is_x, (x < min_val) & ~is_max, is_max


def _widest(*tensors: Tensor) -> torch.dtype:
    """The dtype in which gradients to the bounds are summed: torch would round 16-bit sums between threads."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
