"""Quantizers to floating-point formats, and to blocks with a scale of their own."""

import torch
from torch import Tensor, nn

from ste._float_format import FloatFormat, Format
from ste.blocks import BLOCK_RECIPES, block_scale, block_zero_point, fake_quantize_blocks
from ste.nn._scaled import ScaledQuantizer, largest_of
from ste.quantization import fake_quantize_float, quantize

__all__ = ["BlockQuantizer", "FloatQuantizer"]


class FloatQuantizer(ScaledQuantizer):
    """Quantize to a floating-point format of few bits, times a scale: :func:`ste.fake_quantize_float`.

    Args:
        format: A name, or a :class:`ste.FloatFormat`.
        scale: As in :class:`IntegerQuantizer`, with the format's largest number instead of the largest integer. A
            learned one starts as that of ``"absmax"``.
        saturate: Whether numbers beyond the largest one become the largest one.
        axis: As in :class:`IntegerQuantizer`.
        channels: As in :class:`IntegerQuantizer`.
        momentum: As in :class:`IntegerQuantizer`.
        percentile: As in :class:`IntegerQuantizer`.
        device: Device of the parameters and buffers.
        dtype: Dtype of the parameters and buffers.

    Raises:
        ValueError: An argument is out of its range, or format or scale is another string.

    Example:
        >>> quantizer = ste.nn.FloatQuantizer("e4m3fn", scale="absmax")
        >>> quantizer(torch.tensor([-448.0, 0.1, 33.0])).tolist()
        [-448.0, 0.1015625, 32.0]
    """

    def __init__(
        self,
        format: Format = "e4m3fn",
        *,
        scale: str = "absmax",
        saturate: bool = True,
        axis: int | None = None,
        channels: int = 1,
        momentum: float = 0.1,
        percentile: float = 99.9,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        known = FloatFormat.named(str(format))
        placement = {"device": device, "dtype": dtype}
        super().__init__(known.max, scale, axis, channels, momentum, percentile, placement)
        self.format = str(known)
        self.saturate = saturate

    def forward(self, x: Tensor) -> Tensor:
        scale = self._scale(x)
        return fake_quantize_float(x, scale, self.format, self._grad_scale(x), self.saturate, axis=self.axis)

    def quantize(self, x: Tensor) -> Tensor:
        """The numbers of the format, without the scale, in float32 (float64 if x is float64)."""
        scale = self._scale(x).detach()
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        if self.axis is not None:
            scale = scale.reshape([-1 if i == self.axis % x.dim() else 1 for i in range(x.dim())])
        return fake_quantize_float(wide / scale, 1.0, self.format, saturate=self.saturate)

    def _first_scale(self, x: Tensor) -> Tensor:
        return largest_of(self._rows(x).abs(), 100.0) / self.largest

    def extra_repr(self) -> str:
        return f"format={self.format!r}, {super().extra_repr()}"


class BlockQuantizer(nn.Module):
    """Quantize in blocks, each with a scale that is computed from its numbers: :func:`ste.fake_quantize_blocks`.

    It has no parameters and no buffers.

    Args:
        grid: The name of a recipe, one of :data:`ste.BLOCK_RECIPES`; or ``"int2"`` to ``"int8"``, or a format.
        block: How many neighbors share a scale, or None for all along dim. A recipe sets it.
        rule: How the scale is computed from them. A recipe sets it.
        dim: The dimension along which the blocks lie. The last one is that of a linear layer's inputs.

    Example:
        >>> quantizer = ste.nn.BlockQuantizer("mxfp4")
        >>> quantizer
        BlockQuantizer(grid='e2m1fn', block=32, rule='floor', dim=-1)
        >>> x = torch.tensor([0.1, -0.6, 2.9, 7.0])
        >>> quantizer(x).tolist(), quantizer.quantize(x).tolist()
        ([0.0, -0.5, 3.0, 6.0], [0.0, -0.5, 3.0, 6.0])
    """

    def __init__(self, grid: Format, block: int | None = None, rule: str = "absmax", dim: int = -1) -> None:
        super().__init__()
        name = str(grid)
        self.grid, self.block, self.rule = BLOCK_RECIPES.get(name, (name, block, rule))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize_blocks(x, self.grid, self.block, self.rule, self.dim)

    def quantize(self, x: Tensor) -> Tensor:
        """The numbers of the grid, without the scales: int8 for integers, else float32 (float64 if x is float64)."""
        arguments = (self.grid, self.block, self.rule, self.dim)
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        scale = self._along(block_scale(x, *arguments), x)
        if not self.grid.startswith("int"):
            return fake_quantize_float(torch.where(scale == 0, 0, wide / scale), None, self.grid)
        largest = 2 ** (int(self.grid[3:]) - 1) - 1
        if self.rule == "minmax":
            return quantize(wide, scale, self._along(block_zero_point(x, *arguments), x), -largest - 1, largest).to(
                torch.int8
            )
        return torch.where(scale == 0, 0, quantize(wide, scale, None, -largest, largest)).to(torch.int8)

    def _along(self, of_blocks: Tensor, x: Tensor) -> Tensor:
        """Repeats what each block has for each element of x."""
        size = x.shape[self.dim]
        return of_blocks.repeat_interleave(self.block or size, self.dim).narrow(self.dim, 0, size)

    def right_inverse(self, x: Tensor) -> Tensor:
        """The value that a parametrized weight is set to is the one that is quantized from then on."""
        return x

    def extra_repr(self) -> str:
        return f"grid={self.grid!r}, block={self.block}, rule={self.rule!r}, dim={self.dim}"
