"""Quantizers to binary and ternary numbers."""

from typing import Any

import torch
from torch import Tensor, nn

from ste.nn._scaled import FLOOR
from ste.ops_ste import binary_sign_ste, ternary_sign_ste

__all__ = ["BinaryQuantizer", "TernaryQuantizer"]


class _Signs(nn.Module):
    """What both share: a surrogate, and a scale that is a mean magnitude, of each channel or of all."""

    def __init__(self, surrogate: str, alpha: float | None, scale: str | None, axis: int | None) -> None:
        super().__init__()
        if scale not in (None, "mean"):
            raise ValueError(f"{type(self).__name__}: scale must be None or 'mean', got {scale!r}")
        self.surrogate = surrogate
        self.alpha = alpha
        self.scale_kind = scale
        self.axis = axis

    def _mean(self, x: Tensor) -> Tensor:
        """The mean magnitude, in a shape that broadcasts to x's, in float32 or wider; positive in x's dtype too."""
        size = x.detach().abs()
        others = [i for i in range(x.dim()) if self.axis is None or i != self.axis % x.dim()]
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean = size.mean(others, keepdim=True, dtype=dtype) if others else size.to(dtype)
        return mean.clamp(min=max(FLOOR, torch.finfo(x.dtype).smallest_normal))

    def right_inverse(self, x: Tensor) -> Tensor:
        """The value that a parametrized weight is set to is the one that is quantized from then on."""
        return x

    def extra_repr(self) -> str:
        parts: list[tuple[str, Any]] = [("surrogate", self.surrogate), ("alpha", self.alpha)]
        parts += [("scale", self.scale_kind), ("axis", self.axis)]
        return ", ".join(f"{name}={value!r}" for name, value in parts if value is not None)


class BinaryQuantizer(_Signs):
    r"""-1 or 1, times a scale, with the gradient of a surrogate: :func:`ste.binary_sign_ste` with ``low=-1``.

    Args:
        surrogate: As in :func:`ste.binary_sign_ste`; ``"clipped"`` is that of binarized networks (arXiv:1602.02830),
            one of larq's.
        alpha: As in :func:`ste.binary_sign_ste`.
        scale: None is 1. ``"mean"`` is the mean magnitude, a constant for the gradient (XNOR-Net, arXiv:1603.05279).
        axis: The dimension of x along which each index has a mean of its own.

    Raises:
        ValueError: scale is another string.

    Example:
        >>> quantizer = ste.nn.BinaryQuantizer(scale="mean")
        >>> x = torch.tensor([-0.5, 0.25, 1.5, 0.75])
        >>> quantizer(x)
        tensor([-0.7500,  0.7500,  0.7500,  0.7500])
        >>> quantizer.quantize(x)
        tensor([-1,  1,  1,  1], dtype=torch.int8)
    """

    def __init__(
        self,
        surrogate: str = "clipped",
        *,
        alpha: float | None = None,
        scale: str | None = None,
        axis: int | None = None,
    ) -> None:
        super().__init__(surrogate, alpha, scale, axis)

    def forward(self, x: Tensor) -> Tensor:
        sign = binary_sign_ste(x, -1.0, self.surrogate, self.alpha)
        return sign if self.scale_kind is None else sign * self._mean(x).to(x.dtype)

    def quantize(self, x: Tensor) -> Tensor:
        """The signs, -1 or 1, as int8."""
        return binary_sign_ste(x.detach(), -1.0).to(torch.int8)


class TernaryQuantizer(_Signs):
    r"""-1, 0 or 1, times a scale, with the gradient of a surrogate: :func:`ste.ternary_sign_ste`.

    Args:
        threshold: Magnitudes up to this many times the mean become 0 (TWN, arXiv:1605.04711).
        surrogate: As in :func:`ste.ternary_sign_ste`.
        alpha: As in :func:`ste.ternary_sign_ste`.
        scale: None is 1. ``"mean"`` is the mean magnitude of what does not become 0, a constant for the gradient.
        axis: The dimension of x along which each index has means of its own.

    Raises:
        ValueError: threshold is negative, or scale is another string.

    Example:
        >>> quantizer = ste.nn.TernaryQuantizer()
        >>> x = torch.tensor([-0.5, 0.25, 1.5, 0.75])
        >>> quantizer(x), quantizer.quantize(x)
        (tensor([0.0000, 0.0000, 1.1250, 1.1250]), tensor([0, 0, 1, 1], dtype=torch.int8))
    """

    def __init__(
        self,
        threshold: float = 0.7,
        surrogate: str = "identity",
        *,
        alpha: float | None = None,
        scale: str | None = "mean",
        axis: int | None = None,
    ) -> None:
        super().__init__(surrogate, alpha, scale, axis)
        if not threshold >= 0:
            raise ValueError(f"TernaryQuantizer: threshold must be at least 0, got {threshold}")
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        sign = ternary_sign_ste(x, self._threshold(x), self.surrogate, self.alpha)
        if self.scale_kind is None:
            return sign
        return sign * (self._mean(sign * x) / self._mean(sign)).to(x.dtype)

    def quantize(self, x: Tensor) -> Tensor:
        """-1, 0 or 1, as int8."""
        x = x.detach()
        return ternary_sign_ste(x, self._threshold(x)).to(torch.int8)

    def _threshold(self, x: Tensor) -> Tensor:
        return (self.threshold * self._mean(x)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, {super().extra_repr()}"
