"""The signs: binary_sign_ste and ternary_sign_ste."""

import math
from typing import Any

import torch
from torch import Tensor

from ste._arguments import checked, exact_value
from ste._function import StraightThrough, onnx_like

__all__ = ["binary_sign_ste_fn", "ternary_sign_ste_fn"]


class ternary_sign_ste_fn(StraightThrough):
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
        minus_one, zero, one = (onnx_like(g, x, number) for number in (-1.0, 0.0, 1.0))
        not_positive = g.op("Where", g.op("Less", x, zero), minus_one, zero)
        return g.op("Where", g.op("Greater", x, zero), one, not_positive)


class binary_sign_ste_fn(StraightThrough):
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
        return g.op("Where", g.op("GreaterOrEqual", x, onnx_like(g, x, 0.0)), *(onnx_like(g, x, v) for v in (1.0, low)))
