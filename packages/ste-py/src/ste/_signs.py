"""The signs: binary_sign_ste and ternary_sign_ste."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ste._arguments import beside, check_is_floating, check_parameter, checked, exact_value, tensor_parameter
from ste._function import Rule, StraightThroughByRule, onnx_like, without_gradient_to_bounds
from ste._surrogates import alpha_or_default, check_surrogate, surrogate_gradient

__all__ = ["binary_sign_ste_fn", "ternary_sign_ste_fn"]


class _Sign(StraightThroughByRule):
    """A sign whose gradient is the incoming one, or a surrogate."""

    @staticmethod
    def rule(
        x: Tensor, _: Any = None, surrogate: str = "identity", alpha: Any = None
    ) -> tuple[Rule, tuple[Tensor, ...]]:
        if surrogate == "identity":
            return None, ()
        return partial(surrogate_gradient, surrogate), (x, alpha_or_default(surrogate, alpha, x))

    @staticmethod
    def differentiated(*args: Any) -> tuple[Any, ...]:
        if len(args) == 4 and args[3] is None and not isinstance(args[1], Tensor):
            return args  # like most calls
        return without_gradient_to_bounds(*args)


class ternary_sign_ste_fn(_Sign):
    """Autograd class of :func:`ste.ternary_sign_ste`."""

    @staticmethod
    def forward(
        x: Tensor, threshold: Tensor | None = None, surrogate: str = "identity", alpha: Tensor | None = None
    ) -> Tensor:
        if threshold is not None:
            return ternary_sign_ste_fn.decomposition(x, threshold, surrogate, alpha)
        check_surrogate("ternary_sign_ste", checked("ternary_sign_ste", x), surrogate, alpha)
        return torch.sign(x)

    @staticmethod
    def decomposition(
        x: Tensor, threshold: Tensor | None = None, surrogate: str = "identity", alpha: Tensor | None = None
    ) -> Tensor:
        """Not torch.sign, whose value at NaN is 0 in PyTorch and NaN in ONNX Runtime."""
        checked("ternary_sign_ste", x)
        one, zero = (torch.scalar_tensor(value, dtype=x.dtype, device=x.device) for value in (1, 0))
        if threshold is None:
            check_surrogate("ternary_sign_ste", x, surrogate, alpha)
            return torch.where(x > 0, one, zero if x.dtype == torch.uint8 else torch.where(x < 0, -one, zero))
        check_is_floating("ternary_sign_ste", "x", x)
        threshold = tensor_parameter("ternary_sign_ste", "threshold", threshold, x)
        check_parameter("ternary_sign_ste", "threshold", threshold, x)
        check_surrogate("ternary_sign_ste", x, surrogate, alpha)
        dtype = torch.promote_types(x.dtype, torch.float32)
        wide, limit = x.to(dtype), beside(threshold, x).to(dtype)
        return torch.where(wide > limit, one, torch.where(wide < -limit, -one, zero))

    @staticmethod
    def symbolic(g: Any, x: Any, threshold: Any = None, surrogate: Any = "identity", alpha: Any = None) -> Any:
        minus_one, zero, one = (onnx_like(g, x, number) for number in (-1.0, 0.0, 1.0))
        low = high = zero
        if threshold is not None and threshold.type().kind() != "NoneType":
            x, high = (g.op("Cast", t, to_i=11 if x.type().scalarType() == "Double" else 1) for t in (x, threshold))
            low = g.op("Neg", high)
        not_positive = g.op("Where", g.op("Less", x, low), minus_one, zero)
        return g.op("Where", g.op("Greater", x, high), one, not_positive)


class binary_sign_ste_fn(_Sign):
    """Autograd class of :func:`ste.binary_sign_ste`."""

    @staticmethod
    def forward(
        x: Tensor, low: torch.types.Number = 0.0, surrogate: str = "identity", alpha: Tensor | None = None
    ) -> Tensor:
        check_surrogate("binary_sign_ste", checked("binary_sign_ste", x), surrogate, alpha)
        value: Any = exact_value("binary_sign_ste", "low", low, x)
        if isinstance(value, (torch.SymInt, torch.SymFloat)):  # whose value must not be read
            symbol: Any = value
            value = torch.scalar_tensor(symbol, dtype=x.dtype, device=x.device)
        elif value == 0 and math.copysign(1, value) > 0:
            return (x >= 0).to(x.dtype)
        y = torch.where(x >= 0, torch.scalar_tensor(1, dtype=x.dtype, device=x.device), value)
        return y if y.dtype == x.dtype else y.to(x.dtype)

    @staticmethod
    def symbolic(g: Any, x: Any, low: Any = 0.0, surrogate: Any = "identity", alpha: Any = None) -> Any:
        return g.op("Where", g.op("GreaterOrEqual", x, onnx_like(g, x, 0.0)), *(onnx_like(g, x, v) for v in (1.0, low)))
