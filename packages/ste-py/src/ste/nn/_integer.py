"""Quantizers to integers."""

import math

import torch
from torch import Tensor, nn

from ste.nn._scaled import FLOOR, Placement, ScaledQuantizer
from ste.ops import max_int, min_int
from ste.quantization import fake_quantize, quantize

__all__ = ["IntegerQuantizer"]


class IntegerQuantizer(ScaledQuantizer):
    r"""Quantize to integers of a few bits, times a scale.

    .. math::
        q &= \operatorname{clamp}(\operatorname{round}(x / s) + z, \mathit{quant\_min}, \mathit{quant\_max}) \\
        y &= (q - z) \, s

    with the gradients of :func:`ste.fake_quantize`. A learned scale has LSQ's gradients, with its mask and its factor,
    and a learned zero point makes it LSQ+. A scale that is computed from x is a constant for the gradient.

    ================ ======================================================= ===================
    ``scale``        what it is                                              state
    ================ ======================================================= ===================
    ``"learned"``    a parameter that starts as twice the mean magnitude,    ``scale``
                     divided by the square root of the largest integer (LSQ)
    ``"absmax"``     the largest magnitude of this x, divided by the         none
                     largest integer: for weights, and dynamic quantization
    ``"ema"``        the same, from a moving average of the largest          ``observed``
                     magnitudes
    ``"percentile"`` the same, from a moving average of a percentile         ``observed``
    ================ ======================================================= ===================

    The averages move only in training. Every scale is at least :math:`2^{-40}`, so zeros stay 0.

    Args:
        bits: 2 to 16.
        signed: Whether the integers start at :math:`-2^{bits - 1}`, or at 0.
        narrow_range: Whether to leave out the smallest signed integer, so that the range is symmetric.
        scale: As above.
        zero_point: None is 0. ``"learned"`` is a parameter, for a learned scale (LSQ+). ``"observed"`` is for the other
            scales: an integer, chosen such that the range holds 0 and both ends of what is observed.
        axis: The dimension of x along which each index has a scale of its own, or None for one scale.
        channels: The size of x along the axis; :func:`ste.nn.quantize` sets it to that of the weight.
        momentum: The weight of a new batch in the average.
        percentile: The percentile of the magnitudes, with ``scale="percentile"``.
        device: Device of the parameters and buffers.
        dtype: Dtype of the parameters and buffers.

    Raises:
        ValueError: An argument is out of its range, scale is another string, or zero_point does not go with the scale.

    Example:
        >>> quantizer = ste.nn.IntegerQuantizer(4, scale="absmax")
        >>> x = torch.tensor([-0.7, 0.11, 0.34, 0.6])
        >>> quantizer(x)
        tensor([-0.7000,  0.1000,  0.3000,  0.6000])
        >>> quantizer.quantize(x)
        tensor([-7,  1,  3,  6], dtype=torch.int8)
    """

    zero_point: nn.Parameter

    def __init__(
        self,
        bits: int = 8,
        *,
        signed: bool = True,
        narrow_range: bool = False,
        scale: str = "learned",
        zero_point: str | None = None,
        axis: int | None = None,
        channels: int = 1,
        momentum: float = 0.1,
        percentile: float = 99.9,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 2 <= bits <= 16:
            raise ValueError(f"IntegerQuantizer: bits must be from 2 to 16, got {bits}")
        if zero_point not in (None, "learned" if scale == "learned" else "observed"):
            raise ValueError(
                "IntegerQuantizer: zero_point must be None, 'learned' with a learned scale, or 'observed' with "
                f"another, got {zero_point!r} with scale={scale!r}"
            )
        largest = int(max_int(signed, bits))
        placement: Placement = {"device": device, "dtype": dtype}
        ends = 2 if zero_point == "observed" else 1
        super().__init__(largest, scale, axis, channels, momentum, percentile, placement, ends)
        self.bits = bits
        self.signed = signed
        self.narrow_range = narrow_range
        self.quant_min, self.quant_max = int(min_int(signed, narrow_range, bits)), largest
        self.zero_point_kind = zero_point
        if zero_point == "learned":
            self.zero_point = nn.Parameter(torch.full((channels,), math.nan, **placement))

    def forward(self, x: Tensor) -> Tensor:
        scale, zero_point = self.scale_and_zero_point(x)
        inside = "scaled" if self.scale_kind == "learned" else "rounded"
        ends = (self.quant_min, self.quant_max)
        return fake_quantize(x, scale, zero_point, *ends, self._grad_scale(x), inside, axis=self.axis)

    def quantize(self, x: Tensor) -> Tensor:
        """The integers, in the smallest dtype that holds them."""
        scale, zero_point = self.scale_and_zero_point(x)
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))  # holds them all
        q = quantize(wide, scale, zero_point, self.quant_min, self.quant_max, axis=self.axis)
        small, large = (torch.int8, torch.int16) if self.signed else (torch.uint8, torch.int32)
        return q.to(small if self.bits <= 8 else large)

    def scale_and_zero_point(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The scale and the zero point that x is quantized with, one for each channel. In training, x is observed."""
        if self.zero_point_kind is None:
            return self._scale(x), None
        if self.zero_point_kind == "learned":
            return self._scale(x), self.zero_point
        ends = self._follow(x)
        scale = ((ends[1] - ends[0]) / (self.quant_max - self.quant_min)).clamp(min=FLOOR)
        return scale, (self.quant_min - (ends[0] / scale).round()).clamp(self.quant_min, self.quant_max)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        super().initialize(x)
        if self.zero_point_kind == "learned":
            low, _ = self._ends(x)
            self.zero_point.copy_(self.quant_min - (low / self.scale).round())

    def _first_scale(self, x: Tensor) -> Tensor:
        if self.zero_point_kind is None:
            return super()._first_scale(x)
        low, high = self._ends(x)  # as in LSQ+: from the smallest number to the largest
        return torch.div(high - low, self.quant_max - self.quant_min)

    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(x)
        return -self._highest(-rows).clamp(min=0), self._highest(rows).clamp(min=0)

    def _observe(self, x: Tensor) -> Tensor:
        if self.zero_point_kind == "observed":
            return torch.stack(self._ends(x))
        rows = self._rows(x)
        return self._highest(rows.abs() if self.signed else rows.clamp(min=0))

    def extra_repr(self) -> str:
        narrow = ", narrow_range=True" if self.narrow_range else ""
        zero_point = "" if self.zero_point_kind is None else f", zero_point={self.zero_point_kind!r}"
        return f"bits={self.bits}, signed={self.signed}{narrow}, {super().extra_repr()}{zero_point}"
